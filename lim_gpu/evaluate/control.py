"""Controls of a selection: as many slices of every volume, chosen by chance or spread evenly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lim_gpu.pruning.rules import every_n, random_choice
from lim_gpu.reduction.choice import nearest_by_position
from lim_gpu.selection import Selection, VolumeSelection

Chosen = Callable[[int, int, int], NDArray[np.int64]]  # of the place of a volume, its slices, how many are kept


def as_many_at_random(selection: Selection, seed: int) -> Selection:
    """Another selection of the same store that keeps as many slices of each volume, whichever chance says."""
    return _alike(selection, "random", lambda place, n, count: random_choice(n, [seed, place], keep_count=count), seed)


def as_many_evenly(selection: Selection, seed: int) -> Selection:
    """The same, of every n-th slice."""
    return _alike(selection, "every-n", lambda _place, n, count: every_n(n, keep_count=count), seed)


def _alike(selection: Selection, method: str, chosen: Chosen, seed: int) -> Selection:
    volumes = tuple(_alike_in(place, volume, chosen) for place, volume in enumerate(selection.volumes))
    parameters = {"slices_of_a_volume": f"as {selection.record['method']}", "seed": seed}
    record = selection.record | {"method": method, "parameters": parameters, "seconds": 0.0}
    return Selection(volumes, record)


def _alike_in(place: int, volume: VolumeSelection, chosen: Chosen) -> VolumeSelection:
    n, count = len(volume.kept), int(volume.kept.sum())
    if not count:
        return volume
    stays = chosen(place, n, count)
    kept = np.zeros(n, dtype=bool)
    kept[stays] = True
    nearest, _ = nearest_by_position(stays, n)
    covered = tuple((volume.key, int(i)) for i in nearest)
    unknown = np.full(n, np.nan, dtype=np.float32)
    return replace(volume, kept=kept, rank=np.full(n, -1), covered_by=covered, similarity=unknown)
