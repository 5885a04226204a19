"""How stored values become the 0..255 that every method compares."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError

# Level and width in HU: the presets of the authors' scripts. Bone is 300/1500 there, and 300/150 in one comment.
WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-400, 1500),
    "abdomen": (60, 400),
    "bone": (300, 1500),
    "brain": (40, 80),
    "chest": (40, 400),
    "angio": (300, 600),
}
SLICE_MINMAX = "slice-minmax"


@dataclass(frozen=True)
class Intensity:
    """A mapping to 0..255: each slice's own minimum..maximum (`limits` None, the paper's), or fixed limits in HU."""

    limits: tuple[float, float] | None = None

    @classmethod
    def parse(cls, intensity: str = SLICE_MINMAX, window: str | None = None, hu_range: str | None = None) -> Intensity:
        """From the options of the command line: window NAME or "LEVEL,WIDTH", hu_range "LO:HI".

        Raises UsageError for what is unknown, contradictory or empty.
        """
        if intensity != SLICE_MINMAX:
            raise UsageError(f"intensity {intensity!r} is unknown. Give {SLICE_MINMAX}, or a window or hu-range")
        if window is not None and hu_range is not None:
            raise UsageError("window and hu-range exclude each other. Give one of them")
        if window in WINDOWS:
            level, width = WINDOWS[window]
        elif window is not None:
            level, width = _two_numbers(
                window, ",", f"window {window!r} is neither {', '.join(WINDOWS)} nor LEVEL,WIDTH"
            )
        elif hu_range is not None:
            low, high = _two_numbers(hu_range, ":", f"hu-range {hu_range!r} is not LO:HI")
            level, width = (low + high) / 2, high - low
        else:
            return cls()
        if width <= 0:
            raise UsageError(f"a window of width {width:g} HU shows nothing. Give a positive width")
        if hu_range is not None:
            return cls((low, high))
        return cls((level - width / 2, level + width / 2))

    def describe(self) -> dict[str, Any]:
        """For records and fingerprints."""
        return {"mapping": SLICE_MINMAX} if self.limits is None else {"mapping": "window", "hu": list(self.limits)}

    def to_uint8(self, slices: NDArray[Any]) -> NDArray[np.uint8]:
        """Map int16 slices (n, H, W) to uint8; uint8 slices are returned as they are.

        In float64: u8 = rint_half_even((v - low) / (high - low) * 255) of v clipped to low..high; a constant slice
        gives 0 where its own limits count. Raises InputError for another dtype.
        """
        if slices.dtype == np.uint8:
            return slices
        if slices.dtype != np.int16:
            raise InputError(f"slices of {slices.dtype} have no HU. Give int16 (HU) or uint8 (grey values)")
        mapped = np.empty(slices.shape, dtype=np.uint8)
        for pixels, out in zip(slices, mapped, strict=True):
            low, high = self.limits or (int(pixels.min()), int(pixels.max()))
            out[...] = _scale(pixels, low, high) if low < high else 0
        return mapped


def _scale(pixels: NDArray[np.int16], low: float, high: float) -> NDArray[np.float64]:
    """low..high to whole numbers 0..255, step by step in one array: faster than a table of all values."""
    values = pixels.astype(np.float64)
    np.clip(values, low, high, out=values)
    values -= low
    values /= high - low
    values *= 255
    return np.rint(values, out=values)


def _two_numbers(text: str, separator: str, complaint: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in re.split(re.escape(separator), text))
    except ValueError:
        raise UsageError(complaint) from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise UsageError(complaint)
    return first, second
