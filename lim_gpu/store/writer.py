"""A volume written once as an HDF5 file: verified, then renamed."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import LimGpuError
from lim_gpu.files import sync, temporary_of
from lim_gpu.store.checksum import stored
from lim_gpu.store.disk import Disk, writing
from lim_gpu.store.file import FORMAT, VERSION, VolumeFile, slice_digest, volume_digest
from lim_gpu.store.guards import CHECKSUM
from lim_gpu.store.header import DTYPES, VolumeHeader

LIBVER = ("v110", "v110")  # readable by HDF5 1.10 and newer


class VolumeWriter:
    """Writes `FOLDER/KEY.h5` slice by slice under a temporary name.

        with VolumeWriter(folder, key, n, height, width, "int16", None) as writer:
            writer.append(slice)         # (H, W), at most n times
            digest = writer.finish(header, z)

    Leaving without `finish` removes the temporary file. Raises LimGpuError when the disk refuses.
    """

    def __init__(
        self, folder: Path, key: str, n: int, height: int, width: int, dtype: str, compression: str | None
    ) -> None:
        self.path = folder / f"{key}.h5"
        self._temporary = temporary_of(self.path)
        self._digests: list[bytes] = []
        self._checksums: list[bytes] = []  # of slices that are stored as they are
        self._chunk = np.empty(height * width * DTYPES[dtype].itemsize + CHECKSUM, np.uint8)
        self._plain = compression is None
        self._dtype: np.dtype[Any] = DTYPES[dtype]
        self._shape = (n, height, width)
        self._failures: list[OSError] = []
        layout = {"maxshape": self._shape, "chunks": (1, height, width), **_filters(compression)}
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._disk = Disk(self._temporary, self._failures)
        self._file = h5py.File(self._disk, "w", libver=LIBVER)
        self._slices = self._file.create_dataset("slices", self._shape, self._dtype, **layout)

    def __enter__(self) -> VolumeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, RuntimeError):  # of a file that is thrown away, or was closed before
            self._file.close()
            self._disk.close()
        self._temporary.unlink(missing_ok=True)

    def append(self, pixels: NDArray[Any]) -> None:
        """Write the next slice (H, W) of the volume's dtype."""
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype.newbyteorder("<") != self._dtype or pixels.shape != self._shape[1:]:
            raise LimGpuError(f"a slice is {pixels.dtype}{pixels.shape}, the volume {self._dtype}{self._shape[1:]}")
        if len(self._digests) == self._shape[0]:
            raise LimGpuError(f"{self.path}: more than the {self._shape[0]} slices announced")
        with self._writing():
            if self._plain:
                self._write_plain(pixels)
            else:
                self._slices[len(self._digests)] = pixels
        self._digests.append(slice_digest(pixels))

    def _write_plain(self, pixels: NDArray[Any]) -> None:
        """Past HDF5's filters, whose checksum takes longer than all the rest; in memory that is asked for once."""
        self._chunk[:-CHECKSUM].view(self._dtype)[:] = pixels.reshape(-1)
        self._checksums.append(stored(pixels))
        self._chunk[-CHECKSUM:] = np.frombuffer(self._checksums[-1], np.uint8)
        self._slices.id.write_direct_chunk((len(self._digests), 0, 0), self._chunk)

    def finish(self, header: VolumeHeader, z: NDArray[np.float64]) -> str:
        """Write header and z (m,), close, read everything back, sync, rename. Returns the digest (hex)."""
        count = len(self._digests)
        if not count or header.shape != (count, *self._shape[1:]) or len(z) != count:
            raise LimGpuError(f"{self.path}: {count} slices, header {header.shape}, z {len(z)}")
        digest = volume_digest(header.to_json(), z, self._digests)
        with self._writing():
            self._slices.resize(count, axis=0)
            self._add("slice_sha256", np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32))
            self._add("z", np.asarray(z, dtype="<f8"))
            self._add("header", np.frombuffer(header.to_json(), np.uint8))
            for name, value in (("format", np.bytes_(FORMAT)), ("version", np.int64(VERSION))):
                self._file.attrs.create(name, value)
            self._file.attrs.create("digest", np.bytes_(digest))
            self._file.attrs.create("complete", np.int64(1))
            self._file.close()
            self._disk.close()
        with self._writing():
            with VolumeFile(self._temporary, header.key, digest) as written:
                written.verify(self._checksums)
            sync(self._temporary)
            os.replace(self._temporary, self.path)
            sync(self.path.parent)
        return digest

    def _add(self, name: str, values: NDArray[Any]) -> None:
        self._file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.path, self._failures)


def _filters(compression: str | None) -> dict[str, Any]:
    if compression is None:
        return {"fletcher32": True}
    if compression == "deflate":
        return {"fletcher32": True, "shuffle": True, "compression": "gzip", "compression_opts": 4}
    import hdf5plugin

    codec = {"zstd": hdf5plugin.Zstd, "lz4": hdf5plugin.LZ4}[compression]()
    return {"fletcher32": True, "shuffle": True, **codec}
