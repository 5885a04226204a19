"""One volume as an HDF5 file (`writer.py` makes it), read with guards, since anyone may have made it.

The layout (v110 metadata, fletcher32 on every dataset, hard links only, nothing of variable length) is one in which
random damage was found and not read as wrong pixels. fletcher32 cannot tell 0x0000 from 0xFFFF, so every slice has its
SHA-256 as well.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # a file may name a filter; no search path may load code for it

import h5py
import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, go_on_interrupting
from lim_gpu.store.checksum import stored
from lim_gpu.store.chunks import BLANK, Chunks, blank, compare
from lim_gpu.store.guards import Storage, check_attributes, check_decoded_size, check_members, check_storage, read_small
from lim_gpu.store.header import DTYPES
from lim_gpu.store.header import VolumeHeader as VolumeHeader  # writers need both

FORMAT, VERSION = b"lim-gpu-slices", 1
COMPRESSIONS = ("deflate", "zstd", "lz4")
MAX_SIDE, MAX_SLICES, MAX_BYTES = 4096, 20_000, 32 << 30
DATASETS = {"slices", "slice_sha256", "z", "header"}
ATTRIBUTES = {"format": "S", "version": "iu", "digest": "S", "complete": "iu"}  # and their NumPy kinds
# What h5py was seen to raise for damaged files.
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, SystemError)
Compare = Callable[[NDArray[np.uint32]], None]  # with the sums (m,) of slices, of which it knows the checksums
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524)  # 524: the kernel's ENOTSUPP, from Lustre and DVS


def slice_digest(pixels: NDArray[Any]) -> bytes:
    """SHA-256 of a slice's little-endian bytes, row by row."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data.cast("B")).digest()


def volume_digest(header: bytes, z: NDArray[np.float64], digests: list[bytes]) -> str:
    """SHA-256 (hex) of header, z and all slice digests: one value for the whole volume."""
    return hashlib.sha256(header + np.asarray(z, dtype="<f8").tobytes() + b"".join(digests)).hexdigest()


class VolumeFile:
    """An open volume file. Raises InputError, one line with the file's name, for everything that is not as written.

    header  VolumeHeader; z (n,) float64 mm; digest: that of the file, compared with `digest` where one is given
    """

    def __init__(self, path: Path, key: str, digest: str | None = None) -> None:
        self.path = path
        with self._guarded("Run lim-gpu ingest again for this volume"):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise InputError("not a regular file")
            self._file = _open(path)
            try:
                self._check(key, digest)
            except BaseException:
                self._file.close()
                raise

    def _check(self, key: str, digest: str | None) -> None:
        check_members(self._file, DATASETS)
        check_attributes(self._file, ATTRIBUTES)
        attributes = self._file.attrs
        if attributes["format"] != FORMAT or attributes["version"] != VERSION or attributes["complete"] != 1:
            raise InputError("not a complete volume of this version of lim-gpu")
        self.digest = bytes(attributes["digest"]).decode("ascii")
        self._slices = self._file["slices"]
        storage = _check_slices(self._slices)
        self._codec = storage.codec
        self._chunks = Chunks(self._file, storage.offsets) if Chunks.usable(self._file, storage) else None
        n = self._slices.shape[0]
        self._digests = read_small(self._file["slice_sha256"], np.dtype("u1"), (n, 32))
        self.z = read_small(self._file["z"], np.dtype("<f8"), (n,)).astype(np.float64)
        text = read_small(self._file["header"], np.dtype("u1"), None).tobytes()
        self.header = VolumeHeader.from_json(text, self.path)
        if self.header.key != key:
            raise InputError(f"holds volume {self.header.key}")
        if self.header.shape != self._slices.shape or DTYPES[self.header.dtype] != self._slices.dtype:
            raise InputError("header and pixels disagree")
        if not np.isfinite(self.z).all():
            raise InputError("a position is not finite")
        rows = [row.tobytes() for row in self._digests]
        if self.digest != volume_digest(text, self.z, rows) or digest not in (None, self.digest):
            raise InputError("its digest does not match")

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to repeat."""
        self._file.close()

    def read(self, start: int = 0, stop: int | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Slices start..stop-1, (m, H, W), native byte order; into `out` where that is given."""
        stop = self._slices.shape[0] if stop is None else stop
        self._check_range(start, stop)
        with self._guarded(DELETE):
            if out is None:
                out = np.empty((stop - start, *self._slices.shape[1:]), self._slices.dtype.newbyteorder("="))
            if stop - start > 1 and self._chunks is not None and out.flags.c_contiguous:
                self._chunks.read(start, out)
            elif stop > start:
                self._read_through_hdf5(start, stop, out)
        self._check_blank(start, out, range(len(out)))
        return out

    def read_unsummed(self, start: int, out: NDArray[Any]) -> Compare | None:
        """Slices start, start + 1, ... into `out` (m, H, W), m >= 1, C-contiguous; the caller has to sum them.

        What is returned takes the sums as `fletcher.of_slices` gives them, and raises what `read` raises. None where
        HDF5 has compared them: it sums compressed bytes.
        """
        self._check_range(start, start + len(out))
        if self._chunks is None:
            self.read(start, start + len(out), out)
            return None
        with self._guarded(DELETE):
            return partial(self._compare_sums, start, out, self._chunks.read_unsummed(start, out))

    def _compare_sums(
        self, start: int, out: NDArray[Any], checksums: NDArray[np.uint32], sums: NDArray[np.uint32]
    ) -> None:
        with self._guarded(DELETE):
            compare(start, sums, checksums)
        self._check_blank(start, out, np.flatnonzero(np.isin(sums, BLANK)))

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self._slices.shape[0]:
            raise IndexError(f"slices {start}..{stop} of {self._slices.shape[0]}")

    def _check_blank(self, start: int, out: NDArray[Any], places: Iterable[int]) -> None:
        for i in places:
            if blank(out[i]):
                self._compare(start + i, out[i])

    def _read_through_hdf5(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Compressed slices; and single ones: the compiled checksum would take longer to load than they to read."""
        if self._codec is not None:
            for i in range(start, stop):
                check_decoded_size(self._slices, (i, 0, 0), self._codec)
        self._slices.read_direct(out, np.s_[start:stop])

    def verify(self, checksums: Sequence[bytes] = ()) -> None:
        """Read every slice and compare its SHA-256.

        checksums  those that a writer has put behind the slices: the slices are summed once more instead, the first
                   aside. It takes half of the time, and a file that was just written has no other faults.
        """
        out = np.empty((1, *self._slices.shape[1:]), self._slices.dtype.newbyteorder("="))
        for i in range(len(self._digests)):
            with self._guarded(DELETE):
                if i and checksums and self._chunks is not None:
                    found = self._chunks.read_unsummed(i, out).astype("<u4").tobytes()
                    if not found == stored(out[0]) == checksums[i]:
                        raise InputError(f"slice {i}: its checksum is not what was written")
                    continue
                self._read_through_hdf5(i, i + 1, out)
            self._compare(i, out[0])

    def _compare(self, i: int, pixels: NDArray[Any]) -> None:
        if slice_digest(pixels) != self._digests[i].tobytes():
            raise InputError(f"{self.path}: slice {i} is not what was written. {DELETE}")

    @contextmanager
    def _guarded(self, remedy: str) -> Iterator[None]:
        """Turn whatever HDF5 raises into one line with the file's name and the remedy."""
        try:
            yield
        except BlockingIOError:
            raise InputError(f"{self.path}: locked by another program. Wait for it") from None
        except HDF5_ERRORS as error:
            go_on_interrupting(error)
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
                raise InputError(f"{self.path}: {os.strerror(error.errno)}. Change its permissions") from None
            cause = str(error).removeprefix(f"{self.path}: ").split("\n", 1)[0] or type(error).__name__
            raise InputError(f"{self.path}: {cause}. {remedy}") from None


DELETE = "Delete the file and run lim-gpu ingest again"  # ingest takes a file that opens well for a whole one


def _open(path: Path) -> h5py.File:
    """Without a chunk cache, which only costs memory: every chunk is a slice, and is read whole."""
    try:
        return h5py.File(path, "r", rdcc_nbytes=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return h5py.File(path, "r", rdcc_nbytes=0, locking=False)  # never written again, so no lock is missed


def _check_slices(slices: h5py.Dataset) -> Storage:
    """Check the pixels' dataset before a pixel is read."""
    if slices.ndim != 3 or slices.dtype not in DTYPES.values() or not slices.size:
        raise InputError(f"slices are {slices.dtype}{slices.shape}")
    n, height, width = slices.shape
    if n > MAX_SLICES or max(height, width) > MAX_SIDE or slices.size * slices.dtype.itemsize > MAX_BYTES:
        raise InputError(f"declares {n} slices of {height} x {width}, more than is read")
    return check_storage(slices, (1, height, width), MAX_SLICES)
