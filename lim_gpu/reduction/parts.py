"""What is known of one unit (a volume, a patient, or the data set), as files.

Its result, from which the selection is compiled; and what was measured of it, from which another keep or threshold
gives another result.

A part is used again only when its fingerprint (volumes, parameters, algorithm version) and its own checksum match;
a file that merely exists proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.files import canonical_json, fingerprint, parse_json, read_json, replacing
from lim_gpu.selection.volume import Covering, VolumeSelection

VERSION = 2  # of a result; 1 was JSON, which held no number
RESULT = ".result.npz"  # behind the name of the unit
SLICES = np.dtype([("z", "<f8"), ("kept", "?"), ("covered_by", "<i8"), ("similarity", "<f4")])
REMOVALS = np.dtype([("slice", "<i8"), ("similarity", "<f8")])
PLAIN = ("unit", "volumes", "ranked", "resolved_threshold", "borderline", "matrix", "device", "seconds")


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What the reduction of one unit found. Slices are numbered through the unit's volumes, 0..n-1.

    unit                volume key, patient, or "dataset"
    volumes             [key, number of slices] of each volume, in order
    z                   (n,) float64, mm along the normal
    kept                (k,) int64, sorted indices that stay
    ranked              whether the rule has a removal sequence
    dropped             (n - 1,) int64, that sequence, beyond the stop too
    removal_similarity  (n - 1,) float64, of the pair that removed each, in the order of `dropped`
    covered_by          (n,) int64, nearest kept slice, ties to the lowest index, itself if kept
    similarity          (n,) float32, to that slice; NaN for methods that compare nothing
    resolved_threshold  of the last pair that was removed, in the method's own unit; None of none, and of facility
    borderline          pairs within 1e-4 of the threshold that were recomputed in float64
    matrix              {"png": base64, "low": value of black, "high": value of white}, or None
    device, seconds     where and how long
    """

    unit: str
    volumes: list[list[Any]]
    z: NDArray[np.float64]
    kept: NDArray[np.int64]
    ranked: bool
    dropped: NDArray[np.int64]
    removal_similarity: NDArray[np.float64]
    covered_by: NDArray[np.int64]
    similarity: NDArray[np.float32]
    resolved_threshold: float | None
    borderline: int
    matrix: dict[str, Any] | None
    device: str
    seconds: float

    def split(self) -> list[VolumeSelection]:
        """The unit's volumes, each with its own slices."""
        n = len(self.z)
        kept = np.zeros(n, dtype=bool)
        kept[self.kept] = True
        rank = np.full(n, -1, dtype=np.int64)
        rank[self.dropped] = np.arange(len(self.dropped))
        if self.ranked and len(self.dropped) == n - 1:  # one survivor: it is the last of the sequence
            rank[rank < 0] = len(self.dropped)
        covered_by = Covering.numbered(self.volumes, self.covered_by)
        result, start = [], 0
        for key, size in self.volumes:
            own = slice(start, start + size)
            arrays = (self.z[own], kept[own], rank[own], covered_by[own], self.similarity[own])
            result.append(VolumeSelection(key, *arrays))
            start += size
        return result


def parts_folder(csv_path: Path) -> Path:
    """Where the results of single units stand, beside their selection."""
    return csv_path.with_suffix(".parts")


def save_part(folder: Path, part_fingerprint: str, result: UnitResult) -> None:
    """Write FOLDER/UNIT.result.npz in one step."""
    values = {name: getattr(result, name) for name in PLAIN}
    text = canonical_json({"version": VERSION, "fingerprint": part_fingerprint, "result": values})
    slices, removals = np.zeros(len(result.z), SLICES), np.zeros(len(result.dropped), REMOVALS)
    slices["z"], slices["covered_by"], slices["similarity"] = result.z, result.covered_by, result.similarity
    slices["kept"][result.kept] = True
    removals["slice"], removals["similarity"] = result.dropped, result.removal_similarity
    arrays = {"slices": slices, "removals": removals}
    _save(folder / f"{result.unit}{RESULT}", _digest(text, slices, removals), about=_as_bytes(text), **arrays)
    (folder / f"{result.unit}.json").unlink(missing_ok=True)  # of version 1


def load_part(folder: Path, unit: str, part_fingerprint: str | None = None) -> UnitResult | None:
    """The result of `unit`, or None when there is none that is whole and, where it is given, of this fingerprint."""
    path = folder / f"{unit}{RESULT}"
    if not path.is_file():
        return _load_json(folder / f"{unit}.json", part_fingerprint)
    about, slices, removals, digest = _members(path, "about", "slices", "removals", "sha256")
    if about is None or slices is None or removals is None or digest is None:
        return None
    try:
        text = about.tobytes().decode()
        part = parse_json(text, path)
    except (UnicodeDecodeError, InputError):
        return None
    if digest.tobytes() != _digest(text, slices, removals) or part["version"] != VERSION:
        return None
    if part_fingerprint not in (None, part["fingerprint"]):
        return None
    return UnitResult(
        **part["result"],
        z=slices["z"].copy(),  # of its own: not a view that keeps the whole array
        kept=np.flatnonzero(slices["kept"]),
        dropped=removals["slice"].copy(),
        removal_similarity=removals["similarity"].copy(),
        covered_by=slices["covered_by"].copy(),
        similarity=slices["similarity"].copy(),
    )


def result_names(folder: Path) -> list[str]:
    """The names of the results that stand in a folder, sorted."""
    return sorted(file.name for pattern in (f"*{RESULT}", "*.json") for file in folder.glob(pattern))


def _load_json(path: Path, part_fingerprint: str | None) -> UnitResult | None:
    """A result of version 1, by the rules of `load_part`."""
    if not path.is_file():
        return None
    try:
        part = read_json(path)
    except InputError:
        return None
    if not isinstance(part, dict) or part_fingerprint not in (None, part.get("fingerprint")):
        return None
    values = part.get("result")
    if not isinstance(values, dict) or part.get("sha256") != fingerprint(values):
        return None
    if set(values) != {field.name for field in fields(UnitResult)}:
        return None
    return UnitResult(**values | dict(_as_arrays(values)))


def _as_arrays(values: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The lists of a result of version 1."""
    for name in ("z", "removal_similarity"):
        yield name, np.array(values[name], np.float64)
    for name in ("kept", "dropped", "covered_by"):
        yield name, np.array(values[name], np.int64)
    yield "similarity", np.array(values["similarity"], np.float32)  # None becomes NaN


def save_measure(folder: Path, unit: str, measure_fingerprint: str, values: NDArray[Any]) -> None:
    """Write FOLDER/UNIT.npz in one step: hashes (n,) int64 or a matrix (n, n) float32."""
    digest = _digest(measure_fingerprint, values)
    _save(folder / f"{unit}.npz", digest, fingerprint=_as_bytes(measure_fingerprint), values=values)


def load_measure(folder: Path, unit: str, measure_fingerprint: str) -> NDArray[Any] | None:
    """What `save_measure` wrote, or None when there is nothing that is whole and of this fingerprint."""
    own, values, digest = _members(folder / f"{unit}.npz", "fingerprint", "values", "sha256")
    if own is None or own.tobytes() != measure_fingerprint.encode() or values is None or digest is None:
        return None
    return values if digest.tobytes() == _digest(measure_fingerprint, values) else None


def measure_stands(folder: Path, unit: str, measure_fingerprint: str) -> bool:
    """Whether there is one of this fingerprint; whether it is whole, loading tells. Reads a few bytes."""
    [found] = _members(folder / f"{unit}.npz", "fingerprint")
    return found is not None and found.tobytes() == measure_fingerprint.encode()


def _save(path: Path, digest: bytes, **arrays: NDArray[Any]) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, sha256=np.frombuffer(digest, np.uint8), **arrays)  # type: ignore[arg-type]  # in their order


def _members(path: Path, *names: str) -> list[NDArray[Any] | None]:
    """Arrays of a .npz; None for all where one cannot be had."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception:  # a damaged zip raises nearly anything
        return [None] * len(names)


def _as_bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _digest(about: str, *arrays: NDArray[Any]) -> bytes:
    """SHA-256 of a text, and of types, shapes and values."""
    found = hashlib.sha256(about.encode())
    for array in arrays:
        found.update(f" {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.digest()
