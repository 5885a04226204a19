"""One volume in the report of selections: as a row of the table, and in full with its slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.ingest.defects import sentences
from lim_gpu.intensity import Intensity
from lim_gpu.pruning.rules import every_n
from lim_gpu.reduction.parts import UnitResult
from lim_gpu.reduction.request import HASH_BITS
from lim_gpu.report import figures
from lim_gpu.report.page import image_uri, svg_text
from lim_gpu.report.shown import Shown
from lim_gpu.selection import VolumeSelection
from lim_gpu.spread import spread_evenly
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume

STRIP = 14  # slices of a strip
COVERED = 6  # dropped slices shown beside those that cover them
SIDE = 160  # pixels of a picture


def in_a_row(volume: Volume, shown: Shown) -> dict[str, Any]:
    """A volume as a row of the table of all."""
    selected = shown.of(volume.key)
    dropped = ~selected.kept & np.isfinite(selected.similarity)
    return {
        "key": volume.key,
        "slices": len(selected.kept),
        "kept": int(selected.kept.sum()),
        "worst": float(selected.similarity[dropped].min()) if dropped.any() else None,
        "defects": _defects(volume),
        "modality": volume.entry.modality or "image",
        "size": f"{volume.entry.shape[1]} x {volume.entry.shape[2]}",
    }


def in_full(store: SliceStore, key: str, shown: Sequence[Shown]) -> dict[str, Any]:
    """Strips of kept slices, curves, and dropped slices beside those that cover them: values of the page."""
    chosen = [other.of(key) for other in shown]
    first = chosen[0]
    pictures = _Pictures(store, key)
    strips = [
        (other.title, [pictures.slice(i) for i in _some(np.flatnonzero(one.kept), STRIP)], int(one.kept.sum()))
        for other, one in zip(shown, chosen, strict=True)
    ]
    count = int(first.kept.sum())
    if all(other.selection.record["method"] != "every-n" for other in shown):
        evenly = every_n(len(first.kept), keep_count=count) if count else np.zeros(0, np.int64)
        strips.append((f"every-n, {count} slices", [pictures.slice(i) for i in _some(evenly, STRIP)], count))
    cards = [pictures.pair(i, first) for i in _to_look_at(first)]
    return {
        "key": key,
        "slices": len(first.kept),
        "kept": count,
        "drawn": [_drawn(other, one) for other, one in zip(shown, chosen, strict=True)],
        "strips": strips,
        "cards": cards,
        "cards_of": shown[0].title,
        "defects": _defects(store[key]),
        "z": (float(first.z[0]), float(first.z[-1])),
    }


def _defects(volume: Volume) -> list[str]:
    with volume:
        return list(sentences(volume.header.defects, volume.header.clamped).values())


def _drawn(shown: Shown, selected: VolumeSelection) -> dict[str, Any]:
    """Matrix and removal curve of a volume that was reduced alone."""
    part = shown.curve(selected.key)
    ranked = part is not None and part.ranked and part.removal_similarity
    return {
        "title": shown.title,
        "matrix": svg_text(figures.matrix(part.matrix, selected.kept)) if part and part.matrix else None,
        "curve": _own_curve(shown, part) if part and ranked else None,
    }


def _own_curve(shown: Shown, part: UnitResult) -> str:
    method = shown.selection.record["method"]
    values = np.array(part.removal_similarity)
    own = HASH_BITS * (1 - values) if method == "hash" else values
    return svg_text(figures.removal_curve(own, len(part.z), len(part.kept), shown.scale))


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
    """Small pictures of slices of one volume, as the methods see them by default, and of those that stand for them."""

    def __init__(self, store: SliceStore, key: str) -> None:
        self.store = store
        self.key = key
        self.intensity = Intensity.parse()

    def uri(self, i: int, key: str | None = None) -> str:
        with self.store[key or self.key] as volume:
            return image_uri(self.intensity.to_uint8(volume.read(i, i + 1))[0], SIDE)

    def slice(self, i: int) -> dict[str, Any]:
        return {"slice": i, "image": self.uri(i)}

    def pair(self, i: int, selected: VolumeSelection) -> dict[str, Any]:
        key, covering = selected.covered_by[i]
        return {
            "slice": i,
            "image": self.uri(i),
            "covering": covering,
            "elsewhere": None if key == selected.key else key,
            "covering_image": self.uri(covering, key),
            "similarity": float(selected.similarity[i]),
        }
