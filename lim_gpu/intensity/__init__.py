"""How stored values become the 0..255 that every method compares."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import definition
from lim_gpu.intensity.definition import Limits

if TYPE_CHECKING:
    import torch

# Level and width in HU: the presets of the authors' scripts. Bone is 300/1500 there, and 300/150 in one comment.
# Soft-tissue is that of Tariq et al., who call it a range; their code takes level and width.
WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-400, 1500),
    "abdomen": (60, 400),
    "bone": (300, 1500),
    "brain": (40, 80),
    "chest": (40, 400),
    "angio": (300, 600),
    "soft-tissue": (50, 350),
}
SLICE_MINMAX = "slice-minmax"
VOLUME_PERCENTILE = "volume-percentile"
PERCENTILES = (0.5, 99.5)  # as nnU-Net clips (Isensee et al. 2021, Nature Methods 18:203)
START = 1 << 28  # pixels, a thousand slices of 512 x 512: mapping them, NumPy loses what it takes Numba to start

_by_numpy = 0  # pixels that NumPy has mapped in this process


class HasPercentiles(Protocol):
    """A volume of a store."""

    def percentiles(self, low: float, high: float) -> Limits:
        """Those values of all its pixels; None where they are one."""


@dataclass(frozen=True)
class Intensity:
    """A mapping to 0..255: each slice's own minimum..maximum (`limits` None, the paper's), or fixed limits in HU.

    percentiles  in place of limits: low and high, 0..100, of all pixels of a volume, whatever they measure.
                 `of_volume` makes limits of them.
    body         what lies outside the patient becomes 0 (`lim_gpu.intensity.body`)
    """

    limits: Limits = None
    percentiles: tuple[float, float] | None = None
    body: bool = False

    @classmethod
    def parse(
        cls,
        intensity: str = SLICE_MINMAX,
        window: str | None = None,
        hu_range: str | None = None,
        body: bool = False,
    ) -> Intensity:
        """From the options of the command line: window NAME or "LEVEL,WIDTH", hu_range "LO:HI".

        Raises UsageError for what is unknown, contradictory or empty.
        """
        if intensity not in (SLICE_MINMAX, VOLUME_PERCENTILE):
            names = f"{SLICE_MINMAX}, {VOLUME_PERCENTILE}"
            raise UsageError(f"`intensity` {intensity!r} is unknown. Give {names}, or a `window` or `hu_range`")
        if window is not None and hu_range is not None:
            raise UsageError("`window` and `hu_range` exclude each other. Give one of them")
        if intensity == VOLUME_PERCENTILE:
            if window is not None or hu_range is not None:
                raise UsageError(f"`intensity` {VOLUME_PERCENTILE} takes no `window` and no `hu_range`. Leave them out")
            return cls(percentiles=PERCENTILES, body=body)
        if window is not None:
            return cls(_window(window), body=body)
        return cls(None if hu_range is None else _hu_range(hu_range), body=body)

    @property
    def in_words(self) -> str:
        """For a caption."""
        if self.body:
            return f"{self.without_body.in_words}, the body alone"
        if self.percentiles is not None:
            return "slices from the {:g}th to the {:g}th percentile of their volume".format(*self.percentiles)
        if self.limits is None:
            return "each slice from its own minimum to its own maximum"
        return f"slices from {self.limits[0]:g} to {self.limits[1]:g} HU"

    def describe(self) -> dict[str, Any]:
        """For records and fingerprints."""
        body: dict[str, Any] = {"body": True} if self.body else {}
        if self.percentiles is not None:
            return {"mapping": VOLUME_PERCENTILE, "percentiles": list(self.percentiles)} | body
        if self.limits is None:
            return {"mapping": SLICE_MINMAX} | body
        return {"mapping": "window", "hu": list(self.limits)} | body

    @classmethod
    def described(cls, record: dict[str, Any] | None) -> Intensity:
        """What `describe` told; without a record the paper's. Raises InputError for another mapping."""
        if record is None:
            return cls()
        body = bool(record.get("body"))
        if record.get("mapping") == SLICE_MINMAX:
            return cls(body=body)
        if record.get("mapping") == VOLUME_PERCENTILE:
            low, high = record["percentiles"]
            return cls(percentiles=(float(low), float(high)), body=body)
        if record.get("mapping") != "window":
            raise InputError(f"intensity {record.get('mapping')!r} is not known to this version of lim-gpu")
        low, high = record["hu"]
        return cls((float(low), float(high)), body=body)

    @classmethod
    def of(cls, value: Intensity | str | None) -> Intensity:
        """An intensity as it is, or its name: "slice-minmax", "volume-percentile", a window or a range.

        "lung" and "40,400" are windows, "-1000:400" is a range of HU.

        None: the paper's. Raises UsageError as `parse`.
        """
        if isinstance(value, cls):
            return value
        if value is None or value == SLICE_MINMAX:
            return cls()
        if not isinstance(value, str):
            raise UsageError(f"intensity {value!r} is none. Give lim_gpu.intensity.Intensity, or a name such as 'lung'")
        if value == VOLUME_PERCENTILE:
            return cls.parse(value)
        return cls.parse(hu_range=value) if ":" in value else cls.parse(window=value)

    def of_volume(self, volume: HasPercentiles) -> Intensity:
        """This mapping for the slices of `volume`: with its limits, where it goes by the percentiles of a volume."""
        return self if self.percentiles is None else Intensity(volume.percentiles(*self.percentiles), body=self.body)

    @property
    def without_body(self) -> Intensity:
        """The same for slices of which everything counts, or whose surroundings were cleared before."""
        return replace(self, body=False)

    def clear(self, slices: NDArray[Any]) -> None:
        """Where the body alone counts, give what lies around it in int16 slices (n, H, W) the value that becomes 0."""
        if self.body and slices.dtype == np.int16:
            from lim_gpu.intensity.body import clear_outside

            clear_outside(slices, self.limits)

    @overload
    def to_uint8(self, slices: NDArray[Any]) -> NDArray[np.uint8]: ...
    @overload
    def to_uint8(self, slices: torch.Tensor) -> torch.Tensor: ...
    def to_uint8(self, slices: Any) -> Any:
        """Map int16 slices (n, H, W) to uint8, on the GPU where torch has them there; uint8 slices stay as they are.

        In float64: u8 = rint_half_even((v - low) / (high - low) * 255) of v clipped to low..high; a constant slice
        gives 0 where its own limits count. Raises InputError for another dtype, UsageError for percentiles of a volume
        that is not there: see `of_volume`.

        On the CPU compiled code does it where Numba runs anyway, or the process maps many slices. For a few, as in a
        report or a short-lived loader worker, starting Numba would take longer: `lim_gpu.intensity.compiled` has the
        times. The bits are the same everywhere.
        """
        dtype = str(slices.dtype).removeprefix("torch.")
        if dtype == "uint8":
            return slices
        if dtype != "int16":
            raise InputError(f"slices of {dtype} have no HU. Give int16 (HU) or uint8 (grey values)")
        if self.percentiles is not None:
            raise UsageError(f"{VOLUME_PERCENTILE} needs the volume of the slices. Give Intensity.of_volume(volume)")
        if self.body:
            return self.without_body.to_uint8(self._cleared(slices))
        if isinstance(slices, np.ndarray):
            return _on_cpu(slices, self.limits)
        if slices.is_cuda:
            from lim_gpu.intensity import cuda

            return cuda.to_uint8(slices, self.limits)
        import torch

        return torch.from_numpy(_on_cpu(slices.numpy(), self.limits))

    def _cleared(self, slices: Any) -> Any:
        """A copy, where it lies; its surroundings are found on the CPU."""
        if isinstance(slices, np.ndarray):
            copied = slices.copy()
            self.clear(copied)
            return copied
        copied = slices.cpu().clone()
        self.clear(copied.numpy())
        return copied.to(slices.device)


def _on_cpu(slices: NDArray[np.int16], limits: Limits) -> NDArray[np.uint8]:
    global _by_numpy
    if "numba" not in sys.modules and _by_numpy < START:
        _by_numpy += slices.size
        return definition.to_uint8(slices, limits)
    from lim_gpu.intensity import compiled

    return compiled.to_uint8(slices, limits)


def _window(text: str) -> tuple[float, float]:
    complaint = f"`window` {text!r} is neither {', '.join(WINDOWS)} nor LEVEL,WIDTH"
    name = text.lower()
    if near := get_close_matches(name, WINDOWS, 1):
        complaint += f". Did you mean {near[0]}?"
    level, width = WINDOWS[name] if name in WINDOWS else _two_numbers(text, ",", complaint)
    if width <= 0:
        raise UsageError(f"a `window` of width {width:g} HU shows nothing. Give a positive width")
    return level - width / 2, level + width / 2


def _hu_range(text: str) -> tuple[float, float]:
    low, high = _two_numbers(text, ":", f"`hu_range` {text!r} is not LO:HI")
    if low >= high:
        raise UsageError(f"`hu_range` {text} shows nothing: {low:g} is not below {high:g}. Give LO:HI, as -1000:400")
    return low, high


def _two_numbers(text: str, separator: str, complaint: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in re.split(re.escape(separator), text))
    except ValueError:
        raise UsageError(complaint) from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise UsageError(complaint)
    return first, second
