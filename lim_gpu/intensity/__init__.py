"""How stored values become the 0..255 that every method compares."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity.definition import Limits
from lim_gpu.intensity.mapping import VolumeMapping

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
AS_STORED = "as stored"  # what becomes of 8-bit slices


class HasPercentiles(Protocol):
    """A volume of a store."""

    def percentiles(self, low: float, high: float) -> Limits:
        """Those values of all its pixels; None where they are one."""


@dataclass(frozen=True)
class Intensity:
    """A mapping to 0..255: each slice's own minimum..maximum (`limits` None, the paper's), or fixed limits in HU.

    percentiles  in place of limits: low and high, 0..100, of all pixels of a volume, whatever they measure.
                 `of_volume` makes limits of them
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
        alone = ", the body alone" if self.body else ""
        if self.percentiles is not None:
            return "slices from the {:g}th to the {:g}th percentile of their volume".format(*self.percentiles) + alone
        if self.limits is None:
            return f"each slice from its own minimum to its own maximum{alone}"
        return f"slices from {self.limits[0]:g} to {self.limits[1]:g} HU{alone}"

    def describe(self) -> dict[str, Any]:
        """For records and fingerprints: what is done to all volumes but 8-bit ones, which stay as they are."""
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
            raise InputError(f"intensity {record.get('mapping')!r} is unknown here. Update lim-gpu, or reduce again")
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

    @classmethod
    def asked(
        cls, intensity: Intensity | str | None, window: str | None, hu_range: str | None, body: bool
    ) -> Intensity:
        """From an intensity as `of` takes it, or a window or a range as `parse` does. UsageError for several."""
        if intensity is not None and (window is not None or hu_range is not None):
            raise UsageError("intensity, window and hu_range exclude each other. Give one of them")
        seen = cls.of(intensity) if intensity is not None else cls.parse(window=window, hu_range=hu_range)
        return replace(seen, body=seen.body or body)

    def of_volume(self, volume: HasPercentiles) -> VolumeMapping:
        """What this does to the slices of `volume`, whose limits it takes where it goes by percentiles."""
        limits = self.limits if self.percentiles is None else volume.percentiles(*self.percentiles)
        return VolumeMapping(limits, self.body)

    @overload
    def to_uint8(self, slices: NDArray[Any]) -> NDArray[np.uint8]: ...
    @overload
    def to_uint8(self, slices: torch.Tensor) -> torch.Tensor: ...
    def to_uint8(self, slices: Any) -> Any:
        """Map int16 slices (n, H, W) to uint8, on the GPU where torch has them there; uint8 slices stay as they are.

        In float64: u8 = rint_half_even((v - low) / (high - low) * 255) of v clipped to low..high; a constant slice
        gives 0 where its own limits count. Raises InputError for another dtype, UsageError for percentiles of a volume
        that is not there: see `of_volume`.
        """
        if self.percentiles is not None and not str(slices.dtype).endswith("uint8"):
            raise UsageError(f"{VOLUME_PERCENTILE} needs the volume of the slices. Give Intensity.of_volume(volume)")
        return VolumeMapping(self.limits, self.body).to_uint8(slices)


def _window(text: str) -> tuple[float, float]:
    name = text.lower()
    near = get_close_matches(name, WINDOWS, 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    complaint = f"`window` {text!r} is unknown. {meant}Give {', '.join(WINDOWS)}, or LEVEL,WIDTH"
    level, width = WINDOWS[name] if name in WINDOWS else _two_numbers(text, ",", complaint)
    if width <= 0:
        raise UsageError(f"a `window` of width {width:g} HU shows nothing. Give a positive width")
    return level - width / 2, level + width / 2


def _hu_range(text: str) -> tuple[float, float]:
    low, high = _two_numbers(text, ":", f"`hu_range` {text!r} is no range. Give LO:HI, as -1000:400")
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
