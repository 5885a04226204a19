"""What ingest learns of a file from its header, before any pixel is decoded.

A child process fills these records and sends them to the parent, which never opens a source itself. They may hold names
and identifiers of patients: they live in memory only, and `plan.VolumePlan` decides what reaches the store.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lim_gpu.errors import InputError

INT16 = np.iinfo(np.int16)
AIR = -1024  # HU, what padding becomes


class SourceError(InputError):
    """Why a file or slice cannot be used. `cause` is a fixed phrase, safe to store; `detail` has numbers and remedy."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = detail

    def __reduce__(self) -> tuple[type[SourceError], tuple[str, str]]:
        return type(self), (self.cause, self.detail)


def changed() -> SourceError:
    """Of a file that is not what it was when it was scanned."""
    return SourceError("changed while it was read", "run the command again")


class Record:
    """What dataclasses of millions of instances have in common: they pickle four times as fast as by their own way."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Record], tuple[Any, ...]]:
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Found(Record):
    """A regular file met by the walk.

    `name` is its identity on every machine: the source's own name and the path below it. `order` is its place in the
    natural order of all files.
    """

    path: str
    name: str
    order: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A file that is no input and no failure, by the kind it is counted under."""

    kind: str


@dataclass(frozen=True, slots=True)
class SeriesId(Record):
    """Who a DICOM file says it belongs to."""

    patient: str
    study: str
    series: str


@dataclass(frozen=True, slots=True)
class BrokenInstance:
    """A DICOM image of a known series that cannot be used: its volumes fail, or lose it."""

    series: SeriesId
    error: SourceError


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a DICOM file stores its pixels: all of its header that decoding needs, so that it is read once."""

    syntax: str  # transfer syntax, its UID
    frames: int
    rows: int
    columns: int
    allocated: int  # bits
    stored: int
    signed: bool
    photometric: str
    vr: str  # of PixelData
    modality: str
    padding: tuple[tuple[int, int], ...]  # stored values from..to that are padding, patterns of bits; CT only


@dataclass(frozen=True, slots=True)
class StoredPixels(Record):
    """The value of PixelData: from which byte of the (inflated) file on, how long (None: encapsulated), and how."""

    start: int
    length: int | None
    format: PixelFormat


@dataclass(frozen=True, slots=True)
class Rescale:
    """HU = slope * stored + intercept. `marks` says what is doubtful about it."""

    slope: float = 1.0
    intercept: float = 0.0
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Instance(Record):
    """What the frames of one DICOM file share."""

    found: Found
    series: SeriesId
    sop: str
    pixels: StoredPixels
    eight_bit: bool  # unsigned, 8 bits, not CT: stored as uint8
    derived: bool
    syntax: str  # name of the transfer syntax
    missing_decoder: str  # how to install it, "" where there is one
    number: int | None  # InstanceNumber
    marks: frozenset[str]  # "burned_in", "assumed_hu", "not_hu": kept as defects


@dataclass(frozen=True, slots=True)
class Frame(Record):
    """One slice: a DICOM file, or one frame of a multi-frame file. Lengths in mm, LPS coordinates."""

    instance: Instance
    index: int
    position: tuple[float, ...] | None  # 3
    orientation: tuple[float, ...] | None  # 6: direction of a row, direction of a column
    spacing: tuple[float, ...] | None  # 2: between rows, between columns
    thickness: float | None
    rescale: Rescale | None  # of CT
    splits: tuple[str, ...]  # see splits.SPLITS


@dataclass(frozen=True, slots=True)
class NiftiVolume:
    """A NIfTI file: how its voxels lie in the (inflated) file and in space.

    `axes`: the file's axes that become slice, row and column; `flips`: whether each of them runs against superior,
    posterior and left.
    """

    found: Found
    file_shape: tuple[int, int, int]  # (i, j, k), i fastest
    dtype: str  # NumPy, with byte order
    offset: int
    scaling: tuple[float, float] | None  # slope, intercept
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    affine: tuple[tuple[float, ...], ...]  # 4 x 4, voxel (column, row, slice) -> LPS mm
    marks: frozenset[str]  # "no_affine"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, columns = (self.file_shape[axis] for axis in self.axes)
        return slices, rows, columns


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG or JPEG file: its size once it is upright, and whether it has to be turned for that."""

    found: Found
    rows: int
    columns: int
    sixteen_bit: bool
    turned: bool


Content = Counted | SourceError | BrokenInstance | tuple[Frame, ...] | NiftiVolume | Picture


@dataclass(frozen=True, slots=True)
class Scanned(Record):
    """A file and what is in it."""

    found: Found
    content: Content


@dataclass
class Decoded:
    """One slice (H, W) of int16 or uint8, and what was done to its pixels."""

    pixels: Any
    counts: Counter[str] = field(default_factory=Counter)  # "padding", "clamped", "colour", "transparent"


def to_int16(values: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Round half to even and clamp to int16; the second is how many were clamped."""
    whole_numbers = np.rint(values) if values.dtype.kind == "f" else values
    clamped = np.count_nonzero((whole_numbers < INT16.min) | (whole_numbers > INT16.max))
    return np.clip(whole_numbers, INT16.min, INT16.max).astype(np.int16), Counter(clamped=int(clamped))
