"""The labelled slices of a store as one uint8 tensor."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from lim_gpu.intensity import Intensity
from lim_gpu.labelled.images import Images, resized
from lim_gpu.labels.table import StoreTable
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import check_limits


def load_slices(
    table: StoreTable, size: int, resize: str, intensity: Intensity, context: int, reporter: Reporter
) -> Images:
    """The slices of `table`, size x size, as 0..255 by `intensity`.

    context: so many slices on either side are channels too, in their order; at an end of a volume the last one again.
    Raises UsageError for limits in HU on values that are no HU, InputError for a damaged volume.
    """
    pixels, digests = [], []
    with SliceStore(table.path) as store, reporter.track("read", len(table), "slices") as advance:
        check_limits(store.path, [store[key].entry for key in dict.fromkeys(p.volume for p in table.places)], intensity)
        for place, file in zip(table.places, table.files, strict=True):
            volume = store[place.volume]
            last = volume.entry.shape[0] - 1
            near = [min(max(i, 0), last) for i in range(place.slice - context, place.slice + context + 1)]
            stored = np.stack([volume.read_slice(i) for i in near])
            grey = torch.from_numpy(intensity.of_volume(volume).to_uint8(stored))
            pixels.append(resized(grey[None], size, resize)[0])
            digests.append(_digest(stored[context], file))
            advance(1)
    return Images(torch.stack(pixels), tuple(digests))


def _digest(pixels: np.ndarray, file: str) -> str:
    """Equal for equal slices; of a slice without content its own name: it makes nobody the same patient."""
    if pixels.min() == pixels.max():
        return file
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
