"""Normalized mutual information (Studholme et al. 1999, Pattern Recognition 32:71): (H(X) + H(Y)) / H(X, Y), in [1, 2].

Each slice is binned over its own minimum..maximum with NumPy's edges, so that the joint counts equal those of
scikit-image's normalized_mutual_information exactly. Two constant slices: 2 by definition.

A pair costs one joint histogram. Bin numbers and marginal entropies belong to a slice and are computed once. One slice
meets four others at a time: an increment waits for the one before it when both meet in one bin, and CT falls into few.

Entropies come from counts: N H = N log N - sum of c log c over the bins, each c log c taken from a table of integers in
fixed point. Integer sums have no order: a pair's value depends on its counts alone, and the entropy of a constant slice
is exactly 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.errors import UsageError
from lim_gpu.similarity.blocks import Threads, pair_blocks, symmetric

BINS = 100
MAX_BINS = 256  # a bin number is a byte
BLOCK = 8  # slices; two blocks of bin numbers take 4 MiB
AT_ONCE = 4


def mi_matrix(slices: NDArray[Any], bins: int = BINS) -> NDArray[np.float32]:
    """Normalized mutual information of every pair of slices (n, H, W), float32 (n, n) in [1, 2], 2 on the diagonal.

    A pair's value depends on its two slices alone: not on n, on the order of the slices or on the number of threads.
    """
    n = len(slices)
    numbers = bin_numbers(slices, bins).reshape(n, -1)
    table = c_log_c(numbers.shape[1])
    entropies, upper = np.empty(n, np.int64), np.zeros((n, n))
    with Threads() as pool:
        pool.run(_marginal_entropies, np.arange(n), numbers, table, entropies)
        pool.run(_fill_pairs, pair_blocks(n, BLOCK), numbers, bins, table, entropies, upper)
    return symmetric(upper, 1, 2, diagonal=2)


def mi_pair(x: NDArray[Any], y: NDArray[Any], bins: int = BINS) -> float:
    """Normalized mutual information of two slices (H, W) in float64."""
    a, b = bin_numbers(np.stack([x, y]), bins, threads=1).reshape(2, -1)
    joint = np.bincount(a.astype(np.intp) * bins + b, minlength=bins * bins).reshape(bins, bins)
    h_x, h_y, h_xy = (_entropy(counts) for counts in (joint.sum(1), joint.sum(0), joint))
    return min(max((h_x + h_y) / h_xy, 1.0), 2.0) if h_xy > 0 else 2.0


def bin_numbers(slices: NDArray[Any], bins: int = BINS, threads: int | None = None) -> NDArray[np.uint8]:
    """The bin of every pixel of slices (n, H, W), uint8, by the edges that numpy.histogramdd gives for each slice.

    Raises UsageError unless there are 2..256 bins.
    """
    if not 2 <= bins <= MAX_BINS:
        raise UsageError(f"bins {bins} is outside 2..{MAX_BINS}. Give a number within")
    numbers = np.empty(slices.shape, np.uint8)
    with Threads(threads) as pool:
        pool.run(_number, np.arange(len(slices)), slices, bins, numbers)
    return numbers


def _number(share: NDArray[np.int64], slices: NDArray[Any], bins: int, numbers: NDArray[np.uint8]) -> None:
    for i in share:
        pixels = slices[i]
        edges = bin_edges(pixels.min(), pixels.max(), bins)
        if pixels.dtype == np.uint8:
            numbers[i] = _place(edges, np.arange(256, dtype=np.uint8))[pixels]
        else:
            numbers[i] = _place(edges, pixels)


def bin_edges(low: np.generic, high: np.generic, bins: int) -> NDArray[Any]:
    """NumPy's edges (bins + 1,) of a histogram over low..high, scalars of the slices' dtype."""
    return np.histogramdd(np.array([[low], [high]]), bins=bins)[1][0]


def _place(edges: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """The 0-based bin of each value as in numpy.histogramdd: half-open, the last one closed."""
    return np.searchsorted(edges, values, side="right") - (values == edges[-1]) - 1


def _entropy(counts: NDArray[np.int64]) -> float:
    """Shannon entropy in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def c_log_c(pixels: int) -> NDArray[np.int64]:
    """c log c for c = 0 .. pixels, int64, in the finest fixed point whose sums cannot overflow."""
    counts = np.arange(pixels + 1, dtype=np.float64)
    values = counts * np.log(np.maximum(counts, 1))
    return np.rint(values * 2.0 ** (61 - math.ceil(math.log2(max(values[-1], 1))))).astype(np.int64)


@compiled()
def _marginal_entropies(share, numbers, table, entropies):  # type: ignore[no-untyped-def]
    for i in share:
        counts = np.zeros(256, np.int64)
        for number in numbers[i]:
            counts[number] += 1
        entropies[i] = table[-1] - table[counts].sum()


@compiled()
def _fill_pairs(share, numbers, bins, table, entropies, upper):  # type: ignore[no-untyped-def]
    """upper[i, j] for the pairs i < j of the blocks in `share`."""
    n = len(numbers)
    joint = np.zeros((AT_ONCE, bins * bins), np.uint32)
    for b in range(len(share)):
        for i in range(share[b, 0], min(share[b, 0] + BLOCK, n)):
            stop = min(share[b, 1] + BLOCK, n)
            for first in range(max(share[b, 1], i + 1), stop, AT_ONCE):
                _count(numbers, i, first, stop - 1, bins, joint)
                for k in range(min(AT_ONCE, stop - first)):
                    entropy = table[-1] - _sum_and_clear(joint[k], table)
                    both = entropies[i] + entropies[first + k]
                    upper[i, first + k] = both / entropy if entropy > 0 else 2.0
                joint[stop - first :] = 0


@compiled()
def _count(numbers, i, first, last, bins, joint):  # type: ignore[no-untyped-def]
    """Joint histograms of slice i against first .. first + 3, the last slice standing in for those beyond it."""
    x, a, b = numbers[i], numbers[first], numbers[min(first + 1, last)]
    c, d = numbers[min(first + 2, last)], numbers[min(first + 3, last)]
    in_a, in_b, in_c, in_d = joint[0], joint[1], joint[2], joint[3]
    for p in range(len(x)):
        row = x[p] * bins
        in_a[row + a[p]] += 1
        in_b[row + b[p]] += 1
        in_c[row + c[p]] += 1
        in_d[row + d[p]] += 1


@compiled()
def _sum_and_clear(counts, table):  # type: ignore[no-untyped-def]
    total = 0
    for k in range(len(counts)):
        total += table[counts[k]]
        counts[k] = 0
    return total
