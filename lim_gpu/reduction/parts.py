"""The result of one unit (a volume, a patient, or the data set) as a file, from which the selection is compiled.

A part is used again only when its fingerprint (volumes, parameters, algorithm version) and its own checksum match;
a file that merely exists proves nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError
from lim_gpu.files import canonical_json, fingerprint, read_json, write_text
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
    resolved_threshold  of the last pair that was removed, in the method's own unit; None when nothing was
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
