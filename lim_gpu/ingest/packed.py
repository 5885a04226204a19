"""Many small objects that are not needed now, as compressed bytes: files of one folder differ by a few.

A million slices of a file each took 1.9 GB as objects.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")
Key = TypeVar("Key")


class Packed(Sequence[Item]):
    """A tuple that is unpacked each time it is used: go through it, or make a tuple of it first."""

    __slots__ = ("_bytes", "_count")

    def __init__(self, items: Iterable[Item]) -> None:
        whole = tuple(items)
        self._count = len(whole)
        self._bytes = zlib.compress(pickle.dumps(whole, pickle.HIGHEST_PROTOCOL))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return iter(pickle.loads(zlib.decompress(self._bytes)))

    @overload
    def __getitem__(self, which: int) -> Item: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, which: Any) -> Any:
        return tuple(self)[which]


class PackedList(Generic[Item]):
    """Grows at its end, where up to `size` objects are loose; goes through them in order."""

    __slots__ = ("_loose", "_size", "parts")

    def __init__(self, size: int, items: Iterable[Item] = ()) -> None:
        self.parts: list[Packed[Item]] = []
        self._loose: list[Item] = []
        self._size = size
        self.extend(items)

    def append(self, item: Item) -> None:
        """Add one object."""
        self._loose.append(item)
        if len(self._loose) == self._size:
            self.pack()

    def extend(self, items: Iterable[Item]) -> None:
        """Add some."""
        for item in items:
            self.append(item)

    def pack(self) -> None:
        """Pack what is loose."""
        if self._loose:
            self.parts.append(Packed(self._loose))
            self._loose = []

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + len(self._loose)

    def __iter__(self) -> Iterator[Item]:
        for part in self.parts:
            yield from part
        yield from self._loose


class PackedGroups(Generic[Key, Item]):
    """Objects by groups, of which up to `size` are loose in all."""

    __slots__ = ("_count", "_groups", "_loose", "_size")

    def __init__(self, size: int) -> None:
        self._groups: dict[Key, PackedList[Item]] = {}
        self._size = size
        self._loose: set[Key] = set()  # groups with objects that are not packed yet
        self._count = 0  # of these objects

    def extend(self, key: Key, items: Sequence[Item]) -> None:
        """Add some to a group, which is there from now on."""
        self._groups.setdefault(key, PackedList(self._size)).extend(items)
        self._loose.add(key)
        self._count += len(items)
        if self._count >= self._size:
            for loose in self._loose:
                self._groups[loose].pack()
            self._loose.clear()
            self._count = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._groups

    def let_go(self) -> Iterator[tuple[Key, list[Item]]]:
        """Each group, as they came in; it is gone then."""
        self._loose.clear()
        for key in list(self._groups):
            yield key, list(self._groups.pop(key))
