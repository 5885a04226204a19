"""The kept slices of a store as a torch data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from lim_gpu.intensity import Intensity
from lim_gpu.selection import Selection
from lim_gpu.selection.selected import SelectedSlices, open_selected
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import check_limits


class SliceDataset(Dataset[Any]):
    """One item a kept slice, in store order; all slices without a selection.

    store      a store or its folder; or slices that `open_selected` gave, selected already
    selection  a selection made from that store, or its NAME.csv; None: every slice
    transform  called with the item; without it the item is returned as it is
    intensity  None: stored values, an int16 (HU) or uint8 tensor (1, H, W); else mapped to 0..255, uint8 (1, H, W):
               "slice-minmax", "volume-percentile", a window ("lung", "40,400"), a range of HU ("-1000:400") or an
               `Intensity`

    `places` is (n, 2), int32: volume number and slice of every item. Slices keep their own sizes: where a store mixes
    sizes, `transform` must bring them to one before a DataLoader can stack them. Works with any number of DataLoader
    workers, forked or spawned: each opens its own files.
    Raises UsageError for an intensity that is none, or limits in HU on values that are no HU, InputError for a
    selection of another store, or one that names a slice that is not there; an item raises it for a damaged file.
    """

    def __init__(
        self,
        store: str | Path | SliceStore | SelectedSlices,
        selection: str | Path | Selection | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        intensity: str | Intensity | None = None,
    ) -> None:
        self.slices = store if isinstance(store, SelectedSlices) else open_selected(store, selection)
        self.store, self.places = self.slices.store, self.slices.places
        self.transform = transform
        self.intensity = None if intensity is None else Intensity.of(intensity)
        if self.intensity is not None:
            check_limits(self.store.path, self.slices.volumes, self.intensity)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        volume, i = self.places[index]
        opened = self.store[volume]
        pixels = opened.read_slice(int(i))[None]
        if self.intensity is not None:
            pixels = self.intensity.of_volume(opened).to_uint8(pixels)
        item = torch.from_numpy(pixels)
        return self.transform(item) if self.transform is not None else item

    def place(self, index: int) -> tuple[str, int]:
        """(volume key, slice) of an item."""
        return self.slices.place(index)
