"""The slices of a store that a selection keeps, by their places. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import VolumeEntry


@dataclass(frozen=True, eq=False)
class SelectedSlices:
    """Slices of an open store, in its order; leaving a `with` closes its files.

    store      they are of
    selection  NAME.csv that chose them; None: every slice
    places     (n, 2), int32: volume number and slice of each
    """

    store: SliceStore
    selection: Path | None
    places: NDArray[np.int32]

    def __enter__(self) -> SelectedSlices:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.__exit__()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def source(self) -> Path:
        """What says which slices they are: the selection, or the store."""
        return self.selection or self.store.path

    @property
    def volumes(self) -> list[VolumeEntry]:
        """Those that the slices are of, in store order."""
        return [self.store.volumes[number] for number in np.unique(self.places[:, 0])]

    def place(self, index: int) -> tuple[str, int]:
        """(volume key, slice) of one of them."""
        volume, i = self.places[index]
        return self.store.volumes[volume].key, int(i)


def open_selected(store: SliceStore | str | Path, selection: Selection | str | Path | None = None) -> SelectedSlices:
    """The slices that a selection keeps of a store; without a selection every slice.

    Raises InputError for a store or a selection that cannot be read, a selection of another store, or one that names a
    slice that is not there.
    """
    opened = store if isinstance(store, SliceStore) else SliceStore(store)
    chosen = Selection.load(selection) if isinstance(selection, str | Path) else selection
    places = _all(opened) if chosen is None else _selected(opened, chosen)
    # an array: of a list, every forked worker would soon hold a copy
    return SelectedSlices(opened, chosen.path if chosen is not None else None, places)


def _all(store: SliceStore) -> NDArray[np.int32]:
    return _places((number, np.arange(entry.shape[0])) for number, entry in enumerate(store.volumes))


def _selected(store: SliceStore, selection: Selection) -> NDArray[np.int32]:
    selection.check_store(store)
    known = {entry.key: (number, entry.shape[0]) for number, entry in enumerate(store.volumes)}
    chosen = []
    for volume in selection.volumes:
        number, n = known.get(volume.key, (0, 0))
        kept = np.flatnonzero(volume.kept)
        if len(beyond := kept[kept >= n]):
            what = f"names slice {beyond[0]} of volume {volume.key}, which {store.path} does not hold"
            raise InputError(f"{selection.path or 'the selection'}: {what}. Run lim-gpu reduce again")
        chosen.append((number, kept))
    return _places(chosen)


def _places(chosen: Iterable[tuple[int, NDArray[np.int64]]]) -> NDArray[np.int32]:
    """From the number of each volume and its slices."""
    rows = [np.stack([np.full_like(slices, number), slices], axis=1).astype(np.int32) for number, slices in chosen]
    return np.concatenate([np.empty((0, 2), np.int32), *rows])
