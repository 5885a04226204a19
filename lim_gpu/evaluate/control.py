"""The control of a selection: as many slices of every volume, chosen by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lim_gpu.pruning.rules import random_choice
from lim_gpu.reduction.choice import nearest_by_position
from lim_gpu.selection import Selection, VolumeSelection


def as_many_at_random(selection: Selection, seed: int) -> Selection:
    """Another selection of the same store that keeps as many slices of each volume, whichever chance says."""
    volumes = tuple(_at_random(volume, [seed, place]) for place, volume in enumerate(selection.volumes))
    parameters = {"slices_of_a_volume": f"as {selection.record['method']}", "seed": seed}
    record = selection.record | {"method": "random", "parameters": parameters, "seconds": 0.0}
    return Selection(volumes, record)


def _at_random(volume: VolumeSelection, seed: list[int]) -> VolumeSelection:
    n, count = len(volume.kept), int(volume.kept.sum())
    if not count:
        return volume
    chosen = random_choice(n, seed, keep_count=count)
    kept = np.zeros(n, dtype=bool)
    kept[chosen] = True
    nearest, _ = nearest_by_position(chosen, n)
    covered = tuple((volume.key, int(i)) for i in nearest)
    unknown = np.full(n, np.nan, dtype=np.float32)
    return replace(volume, kept=kept, rank=np.full(n, -1), covered_by=covered, similarity=unknown)
