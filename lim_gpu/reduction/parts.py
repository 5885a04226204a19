"""What is known of one unit (a volume, a patient, or the data set), as files.

Its result, from which the selection is compiled; and what was measured of it, from which another keep or threshold
gives another result.

A part is used again only when its fingerprint (volumes, parameters, algorithm version) and its own checksum match;
a file that merely exists proves nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.files import canonical_json, fingerprint, read_json, replacing, write_text
from lim_gpu.selection import VolumeSelection


@dataclass(frozen=True)
class UnitResult:
    """What the reduction of one unit found. Slices are numbered through the unit's volumes, 0..n-1.

    unit                volume key, patient, or "dataset"
    volumes             [key, number of slices] of each volume, in order
    z                   mm along the normal, a value a slice
    kept                sorted indices that stay
    ranked              whether the rule has a removal sequence
    dropped             that sequence (n - 1), beyond the stop too
    removal_similarity  similarity of the pair that removed each, in the order of `dropped`
    covered_by          nearest kept slice of every slice, ties to the lowest index, itself if kept
    similarity          to that slice; None for methods that compare nothing
    resolved_threshold  of the last pair that was removed, in the method's own unit; None of none, and of facility
    borderline          pairs within 1e-4 of the threshold that were recomputed in float64
    matrix              {"png": base64, "low": value of black, "high": value of white}, or None
    device, seconds     where and how long
    """

    unit: str
    volumes: list[list[Any]]
    z: list[float]
    kept: list[int]
    ranked: bool
    dropped: list[int]
    removal_similarity: list[float]
    covered_by: list[int]
    similarity: list[float | None]
    resolved_threshold: float | None
    borderline: int
    matrix: dict[str, Any] | None
    device: str
    seconds: float

    def split(self) -> list[VolumeSelection]:
        """The unit's volumes, each with its own slices."""
        places = [(key, i) for key, n in self.volumes for i in range(n)]
        kept = np.zeros(len(places), dtype=bool)
        kept[self.kept] = True
        rank = np.full(len(places), -1, dtype=np.int64)
        rank[self.dropped] = np.arange(len(self.dropped))
        if self.ranked and len(self.dropped) == len(places) - 1:  # one survivor: it is the last of the sequence
            rank[rank < 0] = len(self.dropped)
        similarity = np.array(self.similarity, dtype=np.float32)
        result, start = [], 0
        for key, n in self.volumes:
            own = slice(start, start + n)
            covered_by = tuple(places[i] for i in self.covered_by[own])
            z = np.array(self.z[own], dtype=np.float64)
            result.append(VolumeSelection(key, z, kept[own], rank[own], covered_by, similarity[own]))
            start += n
        return result


def save_part(folder: Path, part_fingerprint: str, result: UnitResult) -> None:
    """Write FOLDER/UNIT.json in one step."""
    values = asdict(result)
    part = {"fingerprint": part_fingerprint, "sha256": fingerprint(values), "result": values}
    write_text(folder / f"{result.unit}.json", canonical_json(part) + "\n")


def load_part(folder: Path, unit: str, part_fingerprint: str | None = None) -> UnitResult | None:
    """The result of `unit`, or None when there is none that is whole and, where it is given, of this fingerprint."""
    path = folder / f"{unit}.json"
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
    return UnitResult(**values)


def save_measure(folder: Path, unit: str, measure_fingerprint: str, values: NDArray[Any]) -> None:
    """Write FOLDER/UNIT.npz in one step: hashes (n,) int64 or a matrix (n, n) float32."""
    with replacing(folder / f"{unit}.npz") as temporary, open(temporary, "wb") as handle:
        digest = np.frombuffer(_measure_digest(measure_fingerprint, values), np.uint8)
        own = np.frombuffer(measure_fingerprint.encode(), np.uint8)
        np.savez(handle, fingerprint=own, sha256=digest, values=values)


def load_measure(folder: Path, unit: str, measure_fingerprint: str) -> NDArray[Any] | None:
    """What `save_measure` wrote, or None when there is nothing that is whole and of this fingerprint."""
    if not measure_stands(folder, unit, measure_fingerprint):
        return None
    values, digest = (_member(folder / f"{unit}.npz", name) for name in ("values", "sha256"))
    if values is None or digest is None or digest.tobytes() != _measure_digest(measure_fingerprint, values):
        return None
    return values


def measure_stands(folder: Path, unit: str, measure_fingerprint: str) -> bool:
    """Whether there is one of this fingerprint; whether it is whole, loading tells. Reads a few bytes."""
    found = _member(folder / f"{unit}.npz", "fingerprint")
    return found is not None and found.tobytes() == measure_fingerprint.encode()


def _member(path: Path, name: str) -> NDArray[Any] | None:
    """One array of a .npz, or None where it cannot be had."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: NDArray[Any] = arrays[name]
            return found
    except Exception:  # a damaged zip raises nearly anything
        return None


def _measure_digest(measure_fingerprint: str, values: NDArray[Any]) -> bytes:
    about = f"{measure_fingerprint} {values.dtype.str} {values.shape}"
    return hashlib.sha256(about.encode() + np.ascontiguousarray(values).tobytes()).digest()
