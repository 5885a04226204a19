"""HU to 0..255 on the CPU, compiled. The definition stands in lim_gpu/intensity.py; the bits are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.intensity import Intensity


def to_uint8(slices: NDArray[Any], intensity: Intensity) -> NDArray[np.uint8]:
    """Map int16 slices (n, H, W) to uint8, bit for bit as `Intensity.to_uint8`, whose errors it has."""
    if slices.dtype != np.int16:
        return intensity.to_uint8(slices)
    mapped = np.empty(slices.shape, dtype=np.uint8)
    for pixels, out in zip(slices.reshape(len(slices), -1), mapped.reshape(len(slices), -1), strict=True):
        low, high = intensity.limits or (int(pixels.min()), int(pixels.max()))
        if low < high:
            _scale(pixels, float(low), float(high), out)
        else:
            out[:] = 0
    return mapped


@compiled()
def _scale(pixels, low, high, out):  # type: ignore[no-untyped-def]
    for i in range(len(pixels)):
        value = min(max(np.float64(pixels[i]), low), high)
        out[i] = np.uint8(np.rint((value - low) / (high - low) * 255))
