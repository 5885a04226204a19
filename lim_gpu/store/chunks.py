"""The pixels of an uncompressed volume, read past HDF5: from known places of the file, by several threads at once.

HDF5 has one lock for all the files of a process, so a second thread reads nothing more; the bytes themselves lie in the
file as they are needed, a slice a chunk and four bytes of checksum behind each. Where they lie is taken from HDF5 once,
after `guards.check_storage` has seen every chunk within the file and apart from the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.store.guards import CHECKSUM, Storage

AT_ONCE = 4 << 20  # bytes that are read and then summed, while they are in the cache
MOST_SLICES = 512  # of one call, which takes 1,024 buffers
BLANK = (0, 0xFF00FF00)  # what slices of equal bits sum to; of ones with an odd last byte, the second


class Chunks:
    """Reads slices of one open file; safe in several threads, and while another one closes the file.

    Every read has a descriptor of its own: a number that another file has got meanwhile would give that file's pixels.
    """

    def __init__(self, file: h5py.File, offsets: NDArray[np.int64]) -> None:
        self._file = file
        self._offsets = offsets

    @staticmethod
    def usable(file: h5py.File, storage: Storage) -> bool:
        """Whether pixels lie in the file as they are in memory, at the addresses that HDF5 tells."""
        return storage.plain and not file.userblock_size and file.driver == "sec2" and sys.byteorder == "little"

    def read(self, start: int, out: NDArray[Any]) -> None:
        """Slices start, start + 1, ... into `out` (m, H, W), C-contiguous, of the file's dtype.

        Raises InputError for a checksum that does not match, or a file that has become shorter.
        """
        from lim_gpu.store.fletcher import of_slices

        checksums, sums = np.empty(len(out), "<u4"), np.empty(len(out), np.uint32)
        with self._descriptor() as descriptor:
            for part in self._parts(start, out, max(1, AT_ONCE // out[0].nbytes)):
                self._read_some(descriptor, start, out, checksums, part)
                sums[part] = of_slices(out[part])
        compare(start, sums, checksums)

    def read_unsummed(self, start: int, out: NDArray[Any]) -> NDArray[np.uint32]:
        """As `read`, but compares nothing: the checksums (m,) that the file has of these slices, for `compare`."""
        checksums = np.empty(len(out), "<u4")
        with self._descriptor() as descriptor:
            for part in self._parts(start, out, MOST_SLICES):
                self._read_some(descriptor, start, out, checksums, part)
        return checksums

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        with phil:  # h5py closes files under it, too
            if not self._file:
                raise InputError("closed before it was read")
            descriptor = os.dup(self._file.id.get_vfd_handle())
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _parts(self, start: int, out: NDArray[Any], most: int) -> Iterator[slice]:
        """Slices of `out` that stand one behind the other in the file, as a writer leaves them; at most `most`."""
        size = out[0].nbytes + CHECKSUM
        offsets = self._offsets[start : start + len(out)]
        ends = [*(np.flatnonzero(np.diff(offsets) != size) + 1).tolist(), len(out)]
        for first, end in pairwise([0, *ends]):
            for i in range(first, end, min(most, MOST_SLICES)):
                yield slice(i, min(i + min(most, MOST_SLICES), end))

    def _read_some(
        self, descriptor: int, start: int, out: NDArray[Any], checksums: NDArray[np.uint32], part: slice
    ) -> None:
        """One of `_parts` into `out`, and what stands behind each of its slices into `checksums`."""
        buffers = [one.data.cast("B") for i in range(part.start, part.stop) for one in (out[i], checksums[i : i + 1])]
        _read_all(descriptor, buffers, int(self._offsets[start + part.start]))


def compare(start: int, sums: NDArray[np.uint32], checksums: NDArray[np.uint32]) -> None:
    """Raise InputError where the sums (m,) of slices start, start + 1, ... are not what the file has of them."""
    from lim_gpu.store.fletcher import reduced

    wrong = np.flatnonzero(sums != reduced(checksums))
    if len(wrong):
        raise InputError(f"slice {start + wrong[0]}: its checksum does not match")


def blank(pixels: NDArray[Any]) -> bool:
    """All bits equal, as in a block that a disk lost: with its checksum lost as well, fletcher32 sees nothing."""
    first = pixels[0, 0]
    return first in (0, ~first.dtype.type(0)) and bool((pixels == first).all())


def _read_all(descriptor: int, buffers: list[memoryview], offset: int) -> None:
    """Fill the buffers with what stands from `offset` on; a call may give less than was asked for."""
    while buffers:
        count = os.preadv(descriptor, buffers, offset)
        if not count:
            raise InputError("ends within its pixels")
        offset += count
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if count:
            buffers[0] = buffers[0][count:]
