"""The slices of a store by the SOP Instance UIDs of their sources, which its private lists name."""

from __future__ import annotations

from typing import Any, NamedTuple

from lim_gpu.errors import InputError
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore


class Place(NamedTuple):
    """A slice of a store."""

    volume: str
    slice: int


class Origins:
    """Which slice came from which image. InputError where the private lists are not there, or not the store's."""

    def __init__(self, store: SliceStore) -> None:
        self._places: dict[str, dict[int, Place]] = {}
        for entry in store.volumes:
            rows = sources_of(store, entry.key)
            for i, row in enumerate(rows):
                if uid := str(row.get("sop_uid", "")):
                    self._places.setdefault(uid, {})[int(row.get("frame", 0))] = Place(entry.key, i)

    def find(self, uid: str, frame: int | None = None) -> Place | None:
        """The slice of an image, or of a frame (0-based) of it; None where the store has none of it.

        Raises InputError for an image of several frames of which none is named.
        """
        frames = self._places.get(uid, {})
        if frame is not None:
            return frames.get(frame)
        if len(frames) > 1:
            raise InputError(f"{uid}: has {len(frames)} frames. Name its slices by volume,slice")
        return next(iter(frames.values()), None)


def sources_of(store: SliceStore, key: str) -> list[dict[str, Any]]:
    """The private rows of a volume, one a slice."""
    rows = read_sources(store.path, key)
    if len(rows) != store[key].entry.shape[0]:
        raise InputError(
            f"{store.path}.private: lists {len(rows)} slices of volume {key}, not its own. Run ingest again"
        )
    return rows
