"""What a selection says of one volume, and the rows of a CSV that say it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import overload

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("volume", "slice", "z_mm", "kept", "rank", "covered_by", "similarity")
KEY = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True, eq=False)
class Covering(Sequence[tuple[str, int]]):
    """(key of a volume, slice) for each of n slices, of which a million take 8 MB.

    keys    of the volumes that are named
    volume  (n,) int32, the place of each in `keys`
    place   (n,) int32, the slice
    """

    keys: tuple[str, ...]
    volume: NDArray[np.int32]
    place: NDArray[np.int32]

    @classmethod
    def numbered(cls, volumes: Sequence[Sequence[object]], numbers: NDArray[np.int64]) -> Covering:
        """From slices that are numbered through `volumes`, [key, number of slices] each."""
        starts = np.cumsum([0, *(n for _key, n in volumes)])
        volume = np.searchsorted(starts, numbers, side="right") - 1
        return cls(
            tuple(str(key) for key, _n in volumes), volume.astype(np.int32), (numbers - starts[volume]).astype(np.int32)
        )

    def __len__(self) -> int:
        return len(self.place)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip((self.keys[i] for i in self.volume), self.place.tolist(), strict=True)

    @overload
    def __getitem__(self, which: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, which: slice) -> Covering: ...
    def __getitem__(self, which: int | slice) -> tuple[str, int] | Covering:
        if isinstance(which, slice):
            return Covering(self.keys, self.volume[which], self.place[which])
        return self.keys[self.volume[which]], int(self.place[which])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, eq=False)
class VolumeSelection:
    """The slices of one volume, in spatial order; every array has length n.

    key         the volume's key in its store
    z           float64, mm along the normal
    kept        bool
    rank        int64, place in the removal sequence, 0-based; -1 where the rule has none
    covered_by  (key of the volume, slice) of the nearest kept slice, itself if kept
    similarity  float32, to that slice, in the method's own scale; NaN for methods that compare nothing
    """

    key: str
    z: NDArray[np.float64]
    kept: NDArray[np.bool_]
    rank: NDArray[np.int64]
    covered_by: Sequence[tuple[str, int]]
    similarity: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"VolumeSelection({self.key}: {int(self.kept.sum())} of {len(self.kept)} slices)"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The CSV rows. Another volume's slice is written KEY:SLICE. Numbers read back to the same bits."""
        for i, (volume, covering) in enumerate(self.covered_by):
            yield (
                self.key,
                str(i),
                repr(float(self.z[i])),
                "1" if self.kept[i] else "0",
                str(self.rank[i]) if self.rank[i] >= 0 else "",
                str(covering) if volume == self.key else f"{volume}:{covering}",
                str(self.similarity[i]) if np.isfinite(self.similarity[i]) else "",
            )

    @classmethod
    def parse(cls, key: str, rows: list[list[str]]) -> VolumeSelection:
        """From its rows. Raises ValueError or IndexError for what is none."""
        if not KEY.match(key):
            raise ValueError(f"{key!r} is no volume key")
        if any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError(f"volume {key}: a row is not {','.join(COLUMNS)}")
        _keys, numbers, z, kept, rank, covered_by, similarity = zip(*rows, strict=True)
        if numbers != tuple(map(str, range(len(rows)))):
            raise ValueError(f"volume {key}: the slices are not 0..{len(rows) - 1} in order")
        if not {"0", "1"}.issuperset(kept):
            raise ValueError(f"volume {key}: kept is not 0 or 1")
        return cls(
            key,
            np.array([*map(float, z)]),
            np.array([text == "1" for text in kept]),
            np.array([int(text) if text else -1 for text in rank], dtype=np.int64),
            _parse_covering(key, covered_by),
            np.array([float(text) if text else np.nan for text in similarity], dtype=np.float32),
        )


def _parse_covering(own_key: str, texts: Sequence[str]) -> Covering:
    """From SLICE, of the own volume, and KEY:SLICE."""
    volumes, _, places = zip(*(text.rpartition(":") for text in texts), strict=True)
    known = {key: i for i, key in enumerate(dict.fromkeys(volumes))}
    keys = tuple(intern(key or own_key) for key in known)  # else each volume would hold its own copies
    if foreign := next((key for key in keys if not KEY.match(key)), None):
        raise ValueError(f"{foreign!r} is no volume key")
    number = np.array([known[key] for key in volumes], np.int32)
    return Covering(keys, number, np.array([*map(int, places)], np.int32))
