"""One volume as an HDF5 file: written once, verified, renamed; read with guards, since anyone may have made it.

The layout (v110 metadata, fletcher32 on every dataset, hard links only, nothing of variable length) is one in which
random damage was found and not read as wrong pixels. fletcher32 cannot tell 0x0000 from 0xFFFF, so every slice has its
SHA-256 as well.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")  # a file may name a filter; no search path may load code for it

import h5py
import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import canonical_json, parse_json, sync

FORMAT, VERSION = b"lim-gpu-slices", 1
KEY = re.compile(r"[0-9a-f]{16}\Z")
LIBVER = ("v110", "v110")  # readable by HDF5 1.10 and newer
COMPRESSIONS = ("deflate", "zstd", "lz4")
FILTERS = {"fletcher32": 3, "shuffle": 2, "deflate": 1, "zstd": 32015, "lz4": 32004}
MAX_SIDE, MAX_SLICES, MAX_BYTES = 4096, 20_000, 32 << 30
DEFLATE_LIMIT = 1032  # the largest ratio deflate can reach; more is a bomb
DTYPES = {"int16": np.dtype("<i2"), "uint8": np.dtype("u1")}


@dataclass(frozen=True)
class VolumeHeader:
    """Everything about a volume but its pixels. No name, date or identifier of a patient.

    key, patient     16 hex digits, keyed hashes (plain ones with --keep-identifiers)
    name             a readable name with --keep-identifiers, else ""
    source           "dicom", "nifti" or "image"
    modality         "CT", "MR", "PT", ...; "" for images
    shape, dtype     (n, H, W); "int16" or "uint8"
    unit             "HU", "stored", "8-bit" or "16-bit"
    spacing          mm between slices, rows, columns; None where unknown
    affine           4 x 4, voxel (column, row, slice) to LPS mm; None where unknown
    orientation      "axial", "coronal", "sagittal", "oblique" or ""
    photometric      "MONOCHROME2", "MONOCHROME1" (values not inverted) or ""
    transfer_syntax  its name, "" if none
    padding, clamped pixels set to -1024 HU, pixels clamped to int16
    defects          what is wrong with the geometry or the source, by name
    fingerprint      of the source files and of what changes pixels
    selected_from    digest of the volume that the slices were selected from, else ""
    """

    key: str
    patient: str
    name: str
    source: str
    modality: str
    shape: tuple[int, int, int]
    dtype: str
    unit: str
    spacing: tuple[float, float, float] | None
    affine: list[list[float]] | None
    orientation: str
    photometric: str
    transfer_syntax: str
    padding: int
    clamped: int
    defects: dict[str, Any]
    fingerprint: str
    selected_from: str = ""

    def to_json(self) -> bytes:
        """Canonical, so that equal headers are equal bytes."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes, path: Path) -> VolumeHeader:
        """Raises InputError, naming `path`, for anything that `to_json` does not write."""
        try:
            values = parse_json(text.decode("utf-8"), path)
        except UnicodeDecodeError:
            raise InputError(f"{path}: the header is no text") from None
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise InputError(f"{path}: the header has other fields")
        wrong = [name for name, value in values.items() if not _HEADER_CHECKS[name](value)]
        if wrong:
            raise InputError(f"{path}: header field {wrong[0]} is ill-formed")
        for name in ("shape", "spacing"):
            values[name] = tuple(values[name]) if values[name] is not None else None
        return cls(**values)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and bool(KEY.match(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(item) in (int, float) for item in value)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_row(row, 4) for row in value)


_HEADER_CHECKS: dict[str, Any] = {
    **dict.fromkeys(("key", "patient"), _is_key),
    **dict.fromkeys(("name", "source", "modality", "unit", "orientation", "photometric"), _is_text),
    **dict.fromkeys(("transfer_syntax", "fingerprint", "selected_from"), _is_text),
    **dict.fromkeys(("padding", "clamped"), _is_count),
    "shape": lambda value: _is_row(value, 3) and all(_is_count(item) for item in value),
    "dtype": lambda value: value in DTYPES,
    "spacing": lambda value: value is None or _is_row(value, 3),
    "affine": lambda value: value is None or _is_matrix(value),
    "defects": lambda value: isinstance(value, dict),
}


class VolumeWriter:
    """Writes `FOLDER/KEY.h5` slice by slice under a temporary name. For child processes: a full disk may crash HDF5.

        with VolumeWriter(folder, key, n, height, width, "int16", None) as writer:
            writer.append(slice)         # (H, W), at most n times
            digest = writer.finish(header, z)

    Leaving without `finish` removes the temporary file. Raises LimGpuError when the disk refuses.
    """

    def __init__(
        self, folder: Path, key: str, n: int, height: int, width: int, dtype: str, compression: str | None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key}.h5"
        self._temporary = folder / f".{key}.h5.{os.getpid()}.tmp"
        self._digests: list[bytes] = []
        self._dtype = DTYPES[dtype]
        with self._disk():
            self._file = h5py.File(self._temporary, "w", libver=LIBVER)
            shape = (n, height, width)
            self._slices = self._file.create_dataset(
                "slices", shape, self._dtype, maxshape=shape, chunks=(1, height, width), **_filters(compression)
            )

    def __enter__(self) -> VolumeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, RuntimeError):  # a full disk has been reported already
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def append(self, pixels: NDArray[Any]) -> None:
        """Write the next slice (H, W) of the volume's dtype."""
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype.newbyteorder("<") != self._dtype or pixels.shape != self._slices.shape[1:]:
            raise LimGpuError(
                f"a slice is {pixels.dtype}{pixels.shape}, the volume {self._dtype}{self._slices.shape[1:]}"
            )
        with self._disk():
            self._slices[len(self._digests)] = pixels
        self._digests.append(slice_digest(pixels))

    def finish(self, header: VolumeHeader, z: NDArray[np.float64]) -> str:
        """Write header and z (m,), close, read everything back, sync, rename. Returns the digest (hex)."""
        count = len(self._digests)
        if not count or header.shape != (count, *self._slices.shape[1:]) or len(z) != count:
            raise LimGpuError(f"{self.path}: {count} slices, header {header.shape}, z {len(z)}")
        digest = volume_digest(header.to_json(), z, self._digests)
        with self._disk():
            self._slices.resize(count, axis=0)
            self._add("slice_sha256", np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32))
            self._add("z", np.asarray(z, dtype="<f8"))
            self._add("header", np.frombuffer(header.to_json(), np.uint8))
            for name, value in (("format", np.bytes_(FORMAT)), ("version", np.int64(VERSION))):
                self._file.attrs.create(name, value)
            self._file.attrs.create("digest", np.bytes_(digest))
            self._file.attrs.create("complete", np.int64(1))
            self._file.close()
            with VolumeFile(self._temporary, header.key, digest) as written:
                written.verify()
            sync(self._temporary)
            os.replace(self._temporary, self.path)
            sync(self.path.parent)
        return digest

    def _add(self, name: str, values: NDArray[Any]) -> None:
        self._file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5 raises either
            number = getattr(error, "errno", None)
            cause = os.strerror(number) if number else str(error).split("\n", 1)[0]
            raise LimGpuError(
                f"{self.path}: cannot be written ({cause}). Free some disk space and run again"
            ) from error


def _filters(compression: str | None) -> dict[str, Any]:
    if compression is None:
        return {"fletcher32": True}
    if compression == "deflate":
        return {"fletcher32": True, "shuffle": True, "compression": "gzip", "compression_opts": 4}
    import hdf5plugin

    codec = {"zstd": hdf5plugin.Zstd, "lz4": hdf5plugin.LZ4}[compression]()
    return {"fletcher32": True, "shuffle": True, **codec}


def slice_digest(pixels: NDArray[Any]) -> bytes:
    """SHA-256 of a slice's little-endian bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()).digest()


def volume_digest(header: bytes, z: NDArray[np.float64], digests: list[bytes]) -> str:
    """SHA-256 (hex) of header, z and all slice digests: one value for the whole volume."""
    return hashlib.sha256(header + np.asarray(z, dtype="<f8").tobytes() + b"".join(digests)).hexdigest()


class VolumeFile:
    """An open volume file. Raises InputError, one line with the file's name, for everything that is not as written.

    header  VolumeHeader; z (n,) float64 mm; digest: that of the file, compared with `digest` where one is given
    """

    def __init__(self, path: Path, key: str, digest: str | None = None) -> None:
        self.path = path
        with self._guarded():
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise InputError("not a regular file")
            self._file = h5py.File(path, "r")
            try:
                self._open(key, digest)
            except BaseException:
                self._file.close()
                raise

    def _open(self, key: str, digest: str | None) -> None:
        _check_links(self._file)
        self.digest = _check_attributes(self._file)
        self._slices = self._file["slices"]
        _check_slices(self._slices)
        n = self._slices.shape[0]
        self._digests = _small(self._file, "slice_sha256", np.dtype("u1"), (n, 32))
        self.z = _small(self._file, "z", np.dtype("<f8"), (n,)).astype(np.float64)
        text = _small(self._file, "header", np.dtype("u1"), None).tobytes()
        self.header = VolumeHeader.from_json(text, self.path)
        if self.header.key != key:
            raise InputError(f"holds volume {self.header.key}")
        if self.header.shape != self._slices.shape or DTYPES[self.header.dtype] != self._slices.dtype:
            raise InputError("header and pixels disagree")
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

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Slices start..stop-1, (m, H, W), native byte order."""
        n = self._slices.shape[0]
        stop = n if stop is None else stop
        if not 0 <= start <= stop <= n:
            raise IndexError(f"slices {start}..{stop} of {n}")
        out = np.empty((stop - start, *self._slices.shape[1:]), self._slices.dtype.newbyteorder("="))
        with self._guarded():
            if stop > start:
                self._slices.read_direct(out, np.s_[start:stop])
        return out

    def verify(self) -> None:
        """Read every slice and compare its SHA-256."""
        for i, digest in enumerate(self._digests):
            if slice_digest(self.read(i, i + 1)[0]) != digest.tobytes():
                raise InputError(f"{self.path}: slice {i} is not what was written. Run lim-gpu ingest again")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn whatever HDF5 raises into one line with the file's name and the remedy."""
        try:
            yield
        except BlockingIOError:
            raise InputError(f"{self.path}: locked by another program. Wait for it") from None
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            cause = str(error).removeprefix(f"{self.path}: ") or type(error).__name__
            if getattr(error, "errno", None) == 524:
                cause += ": this file system has no locks; set HDF5_USE_FILE_LOCKING=BEST_EFFORT"
            raise InputError(f"{self.path}: {cause}. Run lim-gpu ingest again for this volume") from None


DATASETS = {"slices", "slice_sha256", "z", "header"}
ATTRIBUTES = {"format", "version", "digest", "complete"}


def _check_links(file: h5py.File) -> None:
    """Only our datasets, and only by hard links: nothing leads out of the file."""
    if set(file) != DATASETS:
        raise InputError("not a volume of lim-gpu")
    for name in DATASETS:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{name} is a link to somewhere else")
        if file.get(name, getclass=True) is not h5py.Dataset:
            raise InputError(f"{name} is no dataset")


def _check_attributes(file: h5py.File) -> str:
    if set(file.attrs) != ATTRIBUTES:
        raise InputError("not a volume of lim-gpu, or cut")
    kinds = {name: file.attrs.get_id(name).dtype.kind for name in ATTRIBUTES}  # before a value is read
    if any(kinds[name] != "S" for name in ("format", "digest")) or any(
        kinds[name] not in "iu" for name in ("version", "complete")
    ):
        raise InputError("foreign attributes")
    if file.attrs["format"] != FORMAT or file.attrs["version"] != VERSION or file.attrs["complete"] != 1:
        raise InputError("not a complete volume of this version of lim-gpu")
    return bytes(file.attrs["digest"]).decode("ascii")


def _check_storage(dataset: h5py.Dataset) -> None:
    """Own bytes in this file, through known filters, each once."""
    if dataset.external is not None or dataset.is_virtual:
        raise InputError(f"{dataset.name} is stored outside the file")
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if (
        FILTERS["fletcher32"] not in filters
        or len(set(filters)) != len(filters)
        or set(filters) - set(FILTERS.values())
    ):
        raise InputError(f"{dataset.name} has foreign filters")
    if {FILTERS["zstd"], FILTERS["lz4"]} & set(filters):
        import hdf5plugin  # noqa: F401  (registers them)
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if FILTERS["deflate"] in filters and declared > DEFLATE_LIMIT * max(stored, 1):
        raise InputError(f"{dataset.name} declares {declared} bytes in {stored}")


def _check_slices(slices: h5py.Dataset) -> None:
    if slices.ndim != 3 or slices.dtype not in DTYPES.values() or not slices.size:
        raise InputError(f"slices are {slices.dtype}{slices.shape}")
    n, height, width = slices.shape
    if n > MAX_SLICES or max(height, width) > MAX_SIDE or slices.size * slices.dtype.itemsize > MAX_BYTES:
        raise InputError(f"declares {n} slices of {height} x {width}, more than is read")
    if slices.chunks != (1, height, width):
        raise InputError("slices are not stored one a chunk")
    _check_storage(slices)
    if slices.id.get_num_chunks() != n:
        raise InputError("slices are missing")


def _small(file: h5py.File, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Read one of the small datasets after the same checks; `shape` None: a text of at most 64 MiB."""
    dataset = file[name]
    if dataset.dtype != dtype or (shape is not None and dataset.shape != shape):
        raise InputError(f"{name} is {dataset.dtype}{dataset.shape}")
    if shape is None and (dataset.ndim != 1 or not 0 < dataset.size <= 64 << 20):
        raise InputError(f"{name} is {dataset.shape}")
    if dataset.chunks != dataset.shape or dataset.id.get_num_chunks() != 1:
        raise InputError(f"{name} is not stored in one piece")
    _check_storage(dataset)
    return np.asarray(dataset[()])
