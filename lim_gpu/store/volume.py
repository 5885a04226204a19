"""A volume of a store: what the index says of it, and its pixels, read when they are needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity
from lim_gpu.intensity.definition import Limits
from lim_gpu.intensity.percentiles import percentiles_of
from lim_gpu.spread import spread_evenly
from lim_gpu.store.file import MAX_SIDE, MAX_SLICES, Compare, VolumeFile
from lim_gpu.store.header import DTYPES, KEY, VolumeHeader
from lim_gpu.strip import SHOWN, strip

AGAIN = "Run lim-gpu ingest again"


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """A volume as the index knows it. shape (n, H, W); digest: SHA-256 (hex) of the whole volume."""

    key: str
    patient: str
    name: str
    shape: tuple[int, int, int]
    dtype: str
    modality: str
    digest: str

    @property
    def holds_hu(self) -> bool:
        """Whether its pixels are HU: ingest gives 16 bits and this modality to no other values."""
        return self.modality == "CT" and self.dtype == "int16"

    @classmethod
    def of(cls, header: VolumeHeader, digest: str) -> VolumeEntry:
        """The entry of a volume that was written."""
        values = {field.name: getattr(header, field.name) for field in fields(cls) if field.name != "digest"}
        return cls(digest=digest, **values)

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path) -> VolumeEntry:
        """From its fields. Raises InputError, naming `path`, for an ill-formed one; no key leads out of the folder."""
        shape = values["shape"]
        texts = all(type(value) is str for name, value in values.items() if name != "shape")
        if (
            not texts
            or not KEY.match(values["key"])
            or not KEY.match(values["patient"])
            or values["dtype"] not in DTYPES
        ):
            raise InputError(f"{path}: an entry is ill-formed. {AGAIN}")
        if type(shape) is not list or [*map(type, shape)] != [int, int, int]:
            raise InputError(f"{path}: an entry has no shape. {AGAIN}")
        n, height, width = shape
        if not (0 < n <= MAX_SLICES and 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise InputError(f"{path}: an entry has {n} slices of {height} x {width}. {AGAIN}")
        often = {name: intern(values[name]) for name in ("patient", "dtype", "modality")}  # one copy for all
        return cls(**(values | often | {"shape": (n, height, width)}))


FIELDS = frozenset(field.name for field in fields(VolumeEntry))


class Volume:
    """A volume of a store; its file is opened and checked at the first use, once in each process.

    Pickles without its handle. Every method raises InputError, one line with the file's name, for a damaged file.
    """

    def __init__(self, path: Path, entry: VolumeEntry, used: Callable[[Volume], None] | None = None) -> None:
        self.path = path
        self.entry = entry
        self._used = used  # tells the store, which limits how many files are open
        self._held: tuple[int, VolumeFile] | None = None  # the process that opened it, and the file
        self.found: dict[tuple[float, float], Limits] = {}  # percentiles, once they have been asked for
        self._finding = threading.Lock()  # several threads read one volume ahead

    def __repr__(self) -> str:
        n, height, width = self.entry.shape
        return f"Volume({self.key}: {n} x {height} x {width} {self.entry.dtype} {self.entry.modality}".rstrip() + ")"

    def _repr_html_(self) -> str:
        """For notebooks: some of its slices."""
        places = spread_evenly(self.entry.shape[0], SHOWN)
        return strip(repr(self), [(f"{i}, z {self.z[i]:.1f}", self.grey(int(i))) for i in places])

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_used": None, "_held": None, "_finding": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _finding=threading.Lock())

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        held, self._held = self._held, None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    def release(self) -> None:
        """Let go of the file: it closes when no thread reads it any more."""
        self._held = None

    @property
    def key(self) -> str:
        """16 hex digits."""
        return self.entry.key

    @property
    def header(self) -> VolumeHeader:
        """Geometry, intensity and defects."""
        return self._opened().header

    @property
    def z(self) -> NDArray[np.float64]:
        """Positions (n,) along the normal in mm, ascending."""
        return self._opened().z

    def read(self, start: int = 0, stop: int | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Slices start..stop-1, (m, H, W), int16 or uint8; into `out`, such an array, where that is given."""
        return self._opened().read(start, stop, out)

    def read_unsummed(self, start: int, out: NDArray[Any]) -> Compare | None:
        """Slices start, start + 1, ... into `out`; what is returned compares their checksums (see VolumeFile)."""
        return self._opened().read_unsummed(start, out)

    def read_slice(self, i: int) -> NDArray[Any]:
        """Slice i, (H, W)."""
        return self._opened().read(i, i + 1)[0]

    def grey(self, i: int) -> NDArray[np.uint8]:
        """Slice i as a picture, (H, W) from its own minimum to its own maximum."""
        return Intensity().to_uint8(self.read(i, i + 1))[0]

    def percentiles(self, low: float, high: float) -> Limits:
        """Percentiles `low` and `high`, 0..100, of all pixels, read once in a process; None where they are one value.

        None for uint8, too, which stays as it is.
        """
        if self.entry.dtype == "uint8":
            return None
        with self._finding:
            if (low, high) not in self.found:
                slices = (self.read_slice(i) for i in range(self.entry.shape[0]))
                self.found[low, high] = percentiles_of(slices, low, high)
            return self.found[low, high]

    def verify(self) -> None:
        """Read every slice and compare its SHA-256."""
        self._opened().verify()

    def _opened(self) -> VolumeFile:
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), self._open())
        if self._used is not None:
            self._used(self)
        return held[1]

    def _open(self) -> VolumeFile:
        file = VolumeFile(self.path, self.key, self.entry.digest)
        if file.header.shape != self.entry.shape or file.header.dtype != self.entry.dtype:
            file.close()
            raise InputError(f"{self.path}: is not the volume of the index. {AGAIN}")
        return file
