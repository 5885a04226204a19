"""One volume in the report of selections: as a row of the table, and in full with its slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.ingest.defects import of_header
from lim_gpu.intensity import Intensity
from lim_gpu.pruning.rules import every_n
from lim_gpu.reduction.parts import UnitResult
from lim_gpu.report import figures
from lim_gpu.report.page import svg_text
from lim_gpu.report.shown import Shown
from lim_gpu.selection import VolumeSelection
from lim_gpu.spread import spread_evenly
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume
from lim_gpu.strip import image_uri

STRIP = 14  # slices of a strip
COVERED = 6  # dropped slices shown beside those that cover them
SIDE = 240  # pixels of a picture, which a click enlarges


def in_a_row(volume: Volume, shown: Sequence[Shown]) -> dict[str, Any]:
    """A volume as a row of the table of all."""
    entry = volume.entry
    return {
        "key": entry.key,
        "name": entry.name,
        "slices": entry.shape[0],
        "chosen": [_counted(one, one.of(entry.key)) for one in shown],
        "defects": _defects(volume),
        "modality": entry.modality or "image",
        "size": f"{entry.shape[1]} x {entry.shape[2]}",
    }


def _counted(shown: Shown, selected: VolumeSelection) -> dict[str, Any]:
    dropped = ~selected.kept & np.isfinite(selected.similarity)
    worst = shown.told(float(selected.similarity[dropped].min())) if dropped.any() else ""
    return {"kept": int(selected.kept.sum()), "worst": worst}


def to_edit(key: str, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the page needs of a volume to let slices be kept and dropped: z, and 0 or 1 a slice for each selection."""
    chosen = [one.of(key) for one in shown]
    return {
        "z": [round(float(z), 2) for z in chosen[0].z],
        "kept": ["".join("01"[int(kept)] for kept in one.kept) for one in chosen],
    }


def in_full(store: SliceStore, key: str, shown: Sequence[Shown], intensity: Intensity) -> dict[str, Any]:
    """Strips of kept slices, curves, and dropped slices beside those that cover them: values of the page."""
    pictures = _Pictures(store, key, intensity, shown[0].of(key).z)
    entry = store[key].entry
    return {
        "key": key,
        "name": entry.name,
        "slices": entry.shape[0],
        "z": (float(pictures.z[0]), float(pictures.z[-1])),
        "chosen": [_chosen(one, one.of(key), pictures) for one in shown],
        "controls": _controls(shown, key, pictures),
        "defects": _defects(store[key]),
    }


def _chosen(shown: Shown, selected: VolumeSelection, pictures: _Pictures) -> dict[str, Any]:
    """What one selection says of the volume."""
    part = shown.curve(selected.key)
    return {
        "kept": int(selected.kept.sum()),
        "strip": [pictures.slice(i) for i in _some(np.flatnonzero(selected.kept), STRIP)],
        "matrix": _matrix(shown, part.matrix, selected.kept) if part and part.matrix else None,
        "curve": _curve(shown, part) if part and shown.only_falls(part) and len(part.dropped) else None,
        "cards": [pictures.pair(i, shown, selected) for i in _to_look_at(selected)],
    }


def _controls(shown: Sequence[Shown], key: str, pictures: _Pictures) -> list[dict[str, Any]]:
    """Every-n with as many slices, for each number that is kept; none where every-n itself is shown."""
    if any(one.selection.record["method"] == "every-n" for one in shown):
        return []
    counts = sorted({int(one.of(key).kept.sum()) for one in shown} - {0})
    n = len(pictures.z)
    return [
        {"count": count, "strip": [pictures.slice(i) for i in _some(every_n(n, keep_count=count), STRIP)]}
        for count in counts
    ]


def _defects(volume: Volume) -> list[str]:
    with volume:
        return of_header(volume.header)


def _matrix(shown: Shown, thumbnail: dict[str, Any], kept: NDArray[np.bool_]) -> str:
    limits = {end: shown.in_own_unit(thumbnail[end]) for end in ("low", "high")}
    return svg_text(figures.matrix(thumbnail | limits, kept, shown.scale, shown.colour))


def _curve(shown: Shown, part: UnitResult) -> str:
    values = shown.in_own_unit(np.array(part.removal_similarity))
    return svg_text(figures.removal_curve(values, len(part.z), len(part.kept), shown.scale, shown.colour))


def _some(indices: NDArray[np.int64], most: int) -> list[int]:
    return [int(i) for i in indices[spread_evenly(len(indices), most)]]


def _to_look_at(selected: VolumeSelection) -> list[int]:
    """Dropped slices to show: half of them those that are covered worst, the others spread over the rest."""
    dropped = np.flatnonzero(~selected.kept)
    if not len(dropped) or not np.isfinite(selected.similarity[dropped]).any():
        return []
    by_similarity = dropped[np.argsort(selected.similarity[dropped], kind="stable")]
    worst, rest = by_similarity[: COVERED // 2], by_similarity[COVERED // 2 :]
    return [*map(int, worst), *(_some(rest, COVERED - len(worst)) if len(rest) else [])]


class _Pictures:
    """Pictures of slices of one volume with positions `z` (n,), and of those that stand for them."""

    def __init__(self, store: SliceStore, key: str, intensity: Intensity, z: NDArray[np.float64]) -> None:
        self.store = store
        self.key = key
        self.intensity = intensity
        self.z = z

    def uri(self, i: int, key: str | None = None) -> str:
        volume = self.store[key or self.key]  # the store closes it: each opening checks the whole file
        return image_uri(self.intensity.of_volume(volume).to_uint8(volume.read(i, i + 1))[0], SIDE)

    def slice(self, i: int) -> dict[str, Any]:
        return {"volume": self.key, "slice": i, "z": float(self.z[i]), "image": self.uri(i)}

    def pair(self, i: int, shown: Shown, selected: VolumeSelection) -> dict[str, Any]:
        key, covering = selected.covered_by[i]
        z = float(shown.of(key).z[covering])
        return {
            "dropped": self.slice(i),
            "covering": {"volume": key, "slice": covering, "z": z, "image": self.uri(covering, key)},
            "alike": shown.told(float(selected.similarity[i])),
        }
