"""What one core of this CPU can do at the most of what SSIM and MI need: the arithmetic of a pair and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled

SSIM_OPERATIONS = 35  # multiply-adds, or as much: product 1, two passes 22, formula 12 (Wang et al. 2004, see ssim.cu)
TERMS = 8  # of each polynomial; four of them side by side, so that no multiply-add waits for the one before
CHAINS = 4
PIXELS = 4096  # that stay in the first cache


def multiply_adds(pixels: int) -> int:
    """Do the multiply-adds of SSIM for a pair of `pixels`, on numbers that lie in the first cache; returns how many."""
    values = np.linspace(0, 1, PIXELS, dtype=np.float32)
    rounds = -(-pixels * SSIM_OPERATIONS // (PIXELS * CHAINS * TERMS))
    _polynomials(values, np.empty_like(values), rounds)
    return rounds * PIXELS * CHAINS * TERMS


@compiled(fastmath={"contract"})
def _polynomials(values: Any, out: Any, rounds: int) -> None:
    one, half, third, fourth = np.float32(0.9), np.float32(0.5), np.float32(0.3), np.float32(0.25)
    for _ in range(rounds):
        for i in range(len(values)):
            x = values[i]
            a, b, c, d = one, half, third, fourth
            for _ in range(TERMS):
                a, b, c, d = a * x + one, b * x + half, c * x + third, d * x + fourth
            out[i] = (a + b) + (c + d)


def increments(x: NDArray[np.uint8], y: NDArray[np.uint8], bins: int) -> NDArray[np.int32]:
    """The joint histogram of two slices of bin numbers, an increment a pixel, and nothing of what MI makes of it."""
    counts = np.zeros(bins * bins, np.int32)
    _count(x.ravel(), y.ravel(), bins, counts)
    return counts


@compiled()
def _count(x: Any, y: Any, bins: int, counts: Any) -> None:
    for i in range(len(x)):
        counts[np.int32(x[i]) * bins + y[i]] += 1
