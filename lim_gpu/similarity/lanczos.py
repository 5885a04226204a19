"""Pillow's fixed-point Lanczos filter: its weights, and the order of its two passes.

Source: Pillow's Resample.c (precompute_coeffs, normalize_coeffs_8bpc, ImagingResampleInner). Every operation on
weights stands in Pillow's order, in float64: a weight that differs by one unit can turn a bit of a hash.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

SUPPORT = 3.0
PRECISION = 22  # bits behind the point of a weight: Pillow's 32 - 8 - 2
ACROSS, DOWN = 9, 8  # pixels of the result


class Weights(NamedTuple):
    """Whole weights (outputs, size), int32, and the range first .. last (outputs,) of inputs that have any."""

    weights: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]


@lru_cache(maxsize=64)
def lanczos_weights(size: int, outputs: int, precision: int) -> Weights:
    """Weights, in units of 2^-precision, that make `outputs` pixels from `size` pixels of a row or a column."""
    weights = np.zeros((outputs, size), np.int32)
    first, last = np.zeros(outputs, np.int32), np.zeros(outputs, np.int32)
    scale = size / outputs
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    for k in range(outputs):
        center = (k + 0.5) * scale
        first[k], last[k] = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), size)
        row = [_lanczos((x - center + 0.5) * (1.0 / stretch)) for x in range(first[k], last[k])]
        total = 0.0
        for value in row:  # not sum(), which compensates since Python 3.12
            total += value
        for x, value in enumerate(row, first[k]):
            share = value / total if total != 0 else value
            weights[k, x] = int(math.copysign(0.5, share) + share * (1 << precision))
    return Weights(weights, first, last)


def rows_first(height: int, width: int) -> bool:
    """Whether Pillow resamples along rows before it resamples down columns, which changes the rounding.

    Up to Pillow 12 always; from 13 on not where the height loses more than twice the pixels that the width loses.
    """
    return int(PIL.__version__.split(".")[0]) < 13 or height - DOWN <= max(0, 2 * (width - ACROSS))


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / SUPPORT) if -SUPPORT <= x < SUPPORT else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0
