"""The kept slices of a store as a torch data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from lim_gpu.intensity import Intensity
from lim_gpu.selection.selected import SelectedSlices, open_selected


class SliceDataset(Dataset[Any]):
    """One item a kept slice, in store order; all slices without a selection.

    store      folder of a store; or slices that `open_selected` gave, selected already
    selection  NAME.csv of a selection made from that store; None: every slice
    transform  called with the item; without it the item is returned as it is
    intensity  None: stored values, an int16 (HU) or uint8 tensor (1, H, W); else mapped to 0..255, uint8 (1, H, W)

    `places` is (n, 2), int32: volume number and slice of every item. Slices keep their own sizes: where a store mixes
    sizes, `transform` must bring them to one before a DataLoader can stack them. Works with any number of DataLoader
    workers, forked or spawned: each opens its own files.
    Raises InputError for a selection of another store, or one that names a slice that is not there; an item raises it
    for a damaged file.
    """

    def __init__(
        self,
        store: str | Path | SelectedSlices,
        selection: str | Path | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        intensity: Intensity | None = None,
    ) -> None:
        self.slices = store if isinstance(store, SelectedSlices) else open_selected(store, selection)
        self.store, self.places = self.slices.store, self.slices.places
        self.transform = transform
        self.intensity = intensity

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        volume, i = self.places[index]
        pixels = self.store[volume].read_slice(int(i))[None]
        if self.intensity is not None:
            pixels = self.intensity.to_uint8(pixels)
        item = torch.from_numpy(pixels)
        return self.transform(item) if self.transform is not None else item

    def place(self, index: int) -> tuple[str, int]:
        """(volume key, slice) of an item."""
        return self.slices.place(index)
