"""Volumes in pieces that are read at a time, and what happens where one cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from lim_gpu.errors import InputError

if TYPE_CHECKING:
    from lim_gpu.store.volume import Volume


class UnreadableVolumeError(InputError):
    """A volume of a store that cannot be read; `key` tells which."""

    def __init__(self, key: str, cause: object) -> None:
        super().__init__(str(cause))
        self.key = key


@contextmanager
def reading(volume: Volume) -> Iterator[None]:
    """Name the volume in whatever goes wrong while it is read."""
    try:
        yield
    except InputError as error:
        raise UnreadableVolumeError(volume.key, error) from error


class Piece(NamedTuple):
    """Slices start .. stop - 1 of a volume."""

    volume: Volume
    start: int
    stop: int

    @property
    def pixels(self) -> int:
        """Of all its slices."""
        _, height, width = self.volume.entry.shape
        return (self.stop - self.start) * height * width


def pieces(volume: Volume, size: int) -> list[Piece]:
    """The volume in order, `size` bytes of HU at a time."""
    n, height, width = volume.entry.shape
    step = max(1, size // (2 * height * width))
    return [Piece(volume, start, min(n, start + step)) for start in range(0, n, step)]


def by_shape(volumes: Sequence[Volume]) -> list[list[Volume]]:
    """The volumes in groups of equal height and width, in order of the first of each."""
    groups: dict[tuple[int, ...], list[Volume]] = {}
    for volume in volumes:
        groups.setdefault(volume.entry.shape[1:], []).append(volume)
    return list(groups.values())
