"""What an HDF5 file must show before any of its data is read, since anyone may have made it.

h5py follows links and external storage to other files without a word, a kilobyte can declare terabytes, a filter may
load code, and HDF5 2.0 fills a slice from foreign memory when its stored bytes decode to fewer than were declared.
Every check raises InputError without the file's name, which the caller knows.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py._objects import phil
from numpy.typing import NDArray

from lim_gpu.errors import InputError

FILTERS = {"fletcher32": 3, "shuffle": 2, "deflate": 1, "zstd": 32015, "lz4": 32004}
CODECS = {FILTERS[name] for name in ("deflate", "zstd", "lz4")}
CHECKSUM = 4  # bytes that fletcher32 adds to a chunk
MAX_HEADER = 16 << 20  # bytes of a text
DEFLATE_LIMIT = 1032  # the largest ratio deflate can reach; more is a bomb


def check_members(file: h5py.File, names: set[str]) -> None:
    """The root holds these datasets and nothing else, by hard links only: nothing leads out of the file."""
    if set(file) != names:
        raise InputError("not a volume of lim-gpu")
    for name in names:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{name} is a link to somewhere else")
        if file.get(name, getclass=True) is not h5py.Dataset:
            raise InputError(f"{name} is no dataset")


def check_attributes(file: h5py.File, kinds: Mapping[str, str]) -> None:
    """The root has these attributes and no other: scalars of the NumPy kinds given, none of variable length."""
    if set(file.attrs) != set(kinds):
        raise InputError("not a volume of lim-gpu, or cut")
    for name, kind in kinds.items():
        attribute = file.attrs.get_id(name)
        if attribute.shape != () or attribute.dtype.kind not in kind:
            raise InputError(f"attribute {name} is foreign")


class Storage(NamedTuple):
    """How a dataset lies in its file.

    codec    the filter that compresses it, or None
    plain    a checksum is the only filter: its bytes stand in the file as in memory
    offsets  (chunks,) where each begins, in the order of their places in the dataset
    """

    codec: int | None
    plain: bool
    offsets: NDArray[np.int64]


def check_storage(dataset: h5py.Dataset, chunk: tuple[int, ...], most: int) -> Storage:
    """Own bytes in this file, in chunks of the shape given, each stored once, through known filters.

    It may have been made for `most` rows (HDF5 2.0 crashes on larger dimensions that are made up).
    """
    if dataset.external is not None or dataset.is_virtual:
        raise InputError(f"{dataset.name} is stored outside the file")
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype)):  # a dtype tells no precision
        raise InputError(f"{dataset.name} has a foreign data type")
    rows, *rest = dataset.maxshape
    if tuple(rest) != dataset.shape[1:] or rows is None or not dataset.shape[0] <= rows <= most:
        raise InputError(f"{dataset.name} may grow to {dataset.maxshape}")
    if dataset.chunks != chunk:
        raise InputError(f"{dataset.name} is not stored in chunks of {chunk}")
    codec, plain = _filters(dataset)
    expected = [length // step for length, step in zip(dataset.shape, chunk, strict=True)]
    offsets = _chunk_offsets(dataset, int(np.prod(expected)), int(np.prod(chunk)) * dataset.dtype.itemsize, codec)
    return Storage(codec, plain, offsets)


def read_small(dataset: h5py.Dataset, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Read one of the small datasets, stored in one piece, after these checks; `shape` None: a text."""
    if dataset.dtype != dtype or (shape is not None and dataset.shape != shape):
        raise InputError(f"{dataset.name} is {dataset.dtype}{dataset.shape}")
    if shape is None and (dataset.ndim != 1 or not 0 < dataset.size <= MAX_HEADER):
        raise InputError(f"{dataset.name} is {dataset.shape}")
    if check_storage(dataset, dataset.shape, dataset.shape[0]).codec is not None:
        raise InputError(f"{dataset.name} is compressed")
    return np.asarray(dataset[()])


def _filters(dataset: h5py.Dataset) -> tuple[int | None, bool]:
    """The compressing filter, and whether the checksum is the only one.

    There is always a checksum, and no filter twice (gzip twice: 8 KB to 2 GB).
    """
    plist = dataset.id.get_create_plist()
    options = {}
    for code, _flags, values, _name in (plist.get_filter(i) for i in range(plist.get_nfilters())):
        if code in options or code not in FILTERS.values():
            raise InputError(f"{dataset.name} has foreign filters")
        options[code] = values
    filters = list(options)
    if options.get(FILTERS["shuffle"], (dataset.dtype.itemsize,)) != (dataset.dtype.itemsize,):
        raise InputError(f"{dataset.name} is shuffled by another size than its pixels have")
    codecs = CODECS & set(filters)
    if filters[-1:] != [FILTERS["fletcher32"]] or len(codecs) > 1:
        raise InputError(f"{dataset.name} has other filters than a codec and then a checksum")
    if codecs & {FILTERS["zstd"], FILTERS["lz4"]}:
        import hdf5plugin  # noqa: F401  (registers them)
    return next(iter(codecs), None), len(filters) == 1


def _chunk_offsets(dataset: h5py.Dataset, count: int, size: int, codec: int | None) -> NDArray[np.int64]:
    """Where the `count` chunks of `size` bytes lie: each once in the file, apart from the others, filters applied."""
    chunks: list[Any] = []

    def note(chunk: Any) -> bool | None:
        chunks.append(chunk)
        return True if len(chunks) > count else None  # True stops

    try:  # an empty index of a made up length would be walked for ever
        _stored_chunk(dataset, (0,) * dataset.ndim)
    except (MemoryError, OSError, RuntimeError, SystemError):
        raise InputError(f"{dataset.name} has no first chunk") from None
    dataset.id.chunk_iter(note)
    if len(chunks) != count or len({chunk.chunk_offset for chunk in chunks}) != count:
        raise InputError(f"{dataset.name} is missing chunks")
    least, most = _stored_sizes(size, codec)
    if any(chunk.filter_mask or not least <= chunk.size - CHECKSUM <= most for chunk in chunks):
        raise InputError(f"{dataset.name} has chunks of another size than it declares")
    end = 0
    for chunk in sorted(chunks, key=lambda chunk: chunk.byte_offset):
        if chunk.byte_offset < end:
            raise InputError(f"{dataset.name} has chunks that overlap")
        end = chunk.byte_offset + chunk.size
    if end > dataset.file.id.get_filesize():
        raise InputError(f"{dataset.name} has chunks beyond the end of the file")
    in_order = sorted(chunks, key=lambda chunk: chunk.chunk_offset)
    return np.array([chunk.byte_offset for chunk in in_order], dtype=np.int64)


def _stored_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> bytes:
    with phil:  # before h5py 3.16 this call alone took no lock, and crashed in threads (h5py pull request 2764)
        stored: bytes = dataset.id.read_direct_chunk(offset)[1]
    return stored


def _stored_sizes(size: int, codec: int | None) -> tuple[int, int]:
    """The fewest and the most bytes that `size` bytes take in the file; no codec adds more than 1 % and a header."""
    if codec is None:
        return size, size
    return size // DEFLATE_LIMIT if codec == FILTERS["deflate"] else 1, size + size // 50 + 1024


def check_decoded_size(dataset: h5py.Dataset, offset: tuple[int, ...], codec: int) -> None:
    """A compressed chunk decodes to the size that its dataset declares: no more (a bomb), and no less.

    deflate does not tell, and is decoded for it, up to that size; zstd (RFC 8878, 3.1.1.1) and the lz4 filter do.
    """
    size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    stored = _stored_chunk(dataset, offset)
    if codec == FILTERS["deflate"]:
        try:
            decoded = len(zlib.decompressobj().decompress(stored, size + 1))
        except zlib.error as error:
            raise InputError(f"{dataset.name} cannot be decoded ({error})") from None
    else:
        decoded = _zstd_size(stored) if codec == FILTERS["zstd"] else int.from_bytes(stored[:8], "big")
    if decoded != size:
        raise InputError(f"{dataset.name} decodes to another size than it declares")


def _zstd_size(frame: bytes) -> int:
    """Frame_Content_Size, or -1 where the frame has none."""
    descriptor = frame[4] if frame[:4] == b"\x28\xb5\x2f\xfd" else 0
    width = (1 if descriptor & 0x20 else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not descriptor & 0x20) + (0, 1, 2, 4)[descriptor & 3]
    if not width or len(frame) < start + width:
        return -1
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
