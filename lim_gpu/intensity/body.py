"""The patient in a slice of HU: all but the table, the air around and padding, which else drive what is compared."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lim_gpu.intensity.definition import Limits

SURFACE = -300  # HU, between air and skin
INT16 = np.iinfo(np.int16)


def body_of(pixels: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Where the body is in HU (H, W): the largest region above SURFACE, its holes filled; nowhere where none is.

    The pixels of a region, and of a hole, touch at their sides.
    """
    from scipy import ndimage

    regions, count = ndimage.label(pixels > SURFACE)
    if not count:
        return np.zeros(pixels.shape, dtype=np.bool_)
    largest = 1 + np.argmax(np.bincount(regions.ravel())[1:])
    around, count = ndimage.label(regions != largest)  # 0: the largest
    reaches_the_border = np.zeros(count + 1, dtype=np.bool_)
    for side in (around[0], around[-1], around[:, 0], around[:, -1]):
        reaches_the_border[side] = True
    reaches_the_border[0] = False
    return ~reaches_the_border[around]


def clear_outside(slices: NDArray[np.int16], limits: Limits) -> None:
    """Give what lies outside the body, in each of slices (n, H, W), the value that becomes 0: in place.

    That is the lower limit, or the body's own minimum where `limits` are each slice's own.
    """
    for pixels in slices:
        inside = body_of(pixels)
        if limits is not None:
            lowest = max(INT16.min, math.floor(min(limits[0], INT16.max)))
        else:
            lowest = int(pixels[inside].min()) if inside.any() else 0
        pixels[~inside] = lowest
