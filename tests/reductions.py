"""What reductions keep, and stores that they meet."""

from __future__ import annotations

import numpy as np

from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore

RESULTS, MEASURES = "[0-9a-f]*.result.npz", "*[0-9a-f].npz"  # of a folder of parts; no name of a temporary file


def kept_of(selection: Selection) -> dict[str, list[int]]:
    """The places of the kept slices of each volume."""
    return {volume.key: np.flatnonzero(volume.kept).tolist() for volume in selection.volumes}


def cut_short(store: SliceStore, place: int) -> str:
    """Cut the end off the file of a volume, and return its key."""
    key = store.volumes[place].key
    file = store.path / "volumes" / f"{key}.h5"
    file.write_bytes(file.read_bytes()[:-2000])
    return key
