"""Percentiles of int16 values by counting them: exact, and a volume passes by once, slice after slice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lim_gpu.intensity.definition import Limits

LOWEST = -(1 << 15)


def percentiles_of(slices: Iterable[NDArray[np.int16]], low: float, high: float) -> Limits:
    """Percentiles `low` and `high` (0..100) of all pixels, as numpy.percentile interpolates them.

    Where they are equal, most pixels being one value, the minimum and the maximum stand for them; None where those are
    equal, too.
    """
    counts = sum((_counts(pixels) for pixels in slices), np.zeros(1 << 16, np.int64))
    found = _percentile(counts, low), _percentile(counts, high)
    if found[0] == found[1]:
        found = _percentile(counts, 0), _percentile(counts, 100)
    return found if found[0] < found[1] else None


def _counts(pixels: NDArray[np.int16]) -> NDArray[np.int64]:
    return np.bincount(pixels.ravel().astype(np.int32) - LOWEST, minlength=1 << 16)


def _percentile(counts: NDArray[np.int64], percentile: float) -> float:
    """Between the two values in order that stand at either side of the place, as numpy's "linear"."""
    reached = np.cumsum(counts)
    place = percentile / 100 * (reached[-1] - 1)
    below, above = (
        int(np.searchsorted(reached, at, side="right")) + LOWEST for at in (np.floor(place), np.ceil(place))
    )
    return below + (above - below) * float(place - np.floor(place))
