"""HU to 0..255 in NumPy: the definition, which the compiled code and the kernel equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Limits = tuple[float, float] | None  # in HU; None: each slice's own minimum and maximum


def scale(pixels: NDArray[np.int16], low: float, high: float, out: NDArray[np.uint8]) -> None:
    """u8 = rint_half_even((v - low) / (high - low) * 255) in float64, v clipped to low..high.

    Step by step in one array: in one line, arrays that come and go would take most of the time.
    """
    values = pixels.astype(np.float64)
    np.clip(values, low, high, out=values)
    values -= low
    values /= high - low
    values *= 255
    out[...] = np.rint(values, out=values)


def to_uint8(
    slices: NDArray[np.int16], limits: Limits, scale: Callable[[Any, float, float, Any], None] = scale
) -> NDArray[np.uint8]:
    """Map slices (n, H, W) by `limits`; a slice whose own limits are one value gives 0."""
    mapped = np.zeros(slices.shape, dtype=np.uint8)
    for pixels, out in zip(slices, mapped, strict=True):
        low, high = limits or (pixels.min(), pixels.max())
        if low < high:
            scale(pixels.ravel(), float(low), float(high), out.ravel())
    return mapped
