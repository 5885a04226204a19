"""MI: Studholme's normalized mutual information (H(X) + H(Y)) / H(X, Y) (Studholme et al. 1998), 100 bins.

Each slice is binned over its own minimum..maximum with NumPy's edges, so the joint counts are those of scikit-image's
normalized_mutual_information. Two constant slices: 2 by definition.

How it is fast. Bin numbers belong to a slice and are computed once. One slice meets several others at a time, so that
consecutive increments go to different histograms: an increment of a counter that was just written waits for that write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError
from lim_gpu.similarity.blocks import Threads, compiled

BINS = 100
GROUP = 4  # joint histograms at a time: 160 KiB at 100 bins


def mi_matrix(slices: NDArray[Any], bins: int = BINS) -> NDArray[np.float32]:
    """NMI of every pair of slices (n, H, W), uint8 or float32, as float32 (n, n) in [1, 2]; 2 on the diagonal."""
    numbers = bin_numbers(slices, bins)
    n = len(numbers)
    numbers = numbers.reshape(n, -1)
    table = count_log_count(numbers.shape[1])
    entropies = np.array([_entropy(np.bincount(own, minlength=bins), table) for own in numbers])
    matrix = np.full((n, n), 2, dtype=np.float64)
    with Threads() as pool:
        rows = np.arange(n - 1)
        rows = rows[np.argsort(rows % (4 * pool.count), kind="stable")]  # every share gets long rows and short ones
        pool.run(_rows, rows, numbers, bins, table, entropies, matrix)
    upper = np.triu(np.clip(matrix, 1, 2), 1)
    return (upper + upper.T + 2 * np.eye(n)).astype(np.float32)


def mi_pair(x: NDArray[Any], y: NDArray[Any], bins: int = BINS) -> float:
    """NMI of two slices (H, W) in float64."""
    first, second = (own.ravel().astype(np.int64) for own in bin_numbers(np.stack([x, y]), bins))
    table = count_log_count(first.size)
    joint = np.bincount(first * bins + second, minlength=bins * bins)
    return normalized(
        _entropy(np.bincount(first, minlength=bins), table),
        _entropy(np.bincount(second, minlength=bins), table),
        _entropy(joint, table),
    )


def bin_numbers(slices: NDArray[Any], bins: int = BINS) -> NDArray[np.uint8]:
    """The bin 0..bins-1 of every pixel of slices (n, H, W), by NumPy's own edges. UsageError unless 2..256 bins."""
    if not 2 <= bins <= 256:
        raise UsageError(f"bins {bins} is outside 2..256")
    out = np.empty(slices.shape, dtype=np.uint8)
    for pixels, numbers in zip(slices, out, strict=True):
        edges = bin_edges(pixels, bins)
        if pixels.dtype == np.uint8:
            np.take(_bins_of(np.arange(256, dtype=np.uint8), edges), pixels, out=numbers)
        else:
            numbers[...] = _bins_of(pixels, edges)
    return out


def bin_edges(pixels: NDArray[Any], bins: int) -> NDArray[Any]:
    """The edges (bins + 1,) that `numpy.histogramdd` takes for these pixels: they depend on minimum and maximum alone."""
    ends = np.array([[pixels.min()], [pixels.max()]], dtype=pixels.dtype)
    return np.histogramdd(ends, bins=[bins])[1][0]


def _bins_of(values: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.uint8]:
    """As histogramdd: the last edge belongs to the last bin."""
    bins = len(edges) - 1
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1).astype(np.uint8)


def count_log_count(total: int) -> NDArray[np.float64]:
    """c log c for c = 0..total, float64: with it an entropy is log N - sum(c log c) / N."""
    counts = np.arange(total + 1, dtype=np.float64)
    return counts * np.log(np.maximum(counts, 1))


def normalized(first: float, second: float, joint: float) -> float:
    """(H(X) + H(Y)) / H(X, Y) in [1, 2]; 2 where there is no entropy at all."""
    return min(2.0, max(1.0, (first + second) / joint)) if joint > 0 else 2.0


def _entropy(counts: NDArray[np.int64], table: NDArray[np.float64]) -> float:
    total = len(table) - 1
    return float(np.log(total) - table[counts].sum() / total) if counts.max() < total else 0.0


@compiled()
def _count(numbers, i, start, bins, joint):  # type: ignore[no-untyped-def]
    """Joint histograms of slice i with start, start + 1, ...; past the end the last slice is counted again."""
    joint[:] = 0
    last = len(numbers) - 1
    a, b, c, d = joint[0], joint[1], joint[2], joint[3]
    x, y0, y1 = numbers[i], numbers[start], numbers[min(start + 1, last)]
    y2, y3 = numbers[min(start + 2, last)], numbers[min(start + 3, last)]
    for p in range(len(x)):
        row = np.uint32(x[p]) * np.uint32(bins)
        a[row + y0[p]] += np.uint32(1)
        b[row + y1[p]] += np.uint32(1)
        c[row + y2[p]] += np.uint32(1)
        d[row + y3[p]] += np.uint32(1)


@compiled()
def _rows(share, numbers, bins, table, entropies, matrix):  # type: ignore[no-untyped-def]
    """Fill row i of `matrix` right of the diagonal, for every i of `share`."""
    n, pixels = numbers.shape
    log_total = np.log(pixels)
    joint = np.zeros((GROUP, bins * bins), np.uint32)
    for i in share:
        for start in range(i + 1, n, GROUP):
            _count(numbers, i, start, bins, joint)
            for j in range(start, min(start + GROUP, n)):
                total = 0.0
                for count in joint[j - start]:
                    total += table[count]
                if entropies[i] > 0 or entropies[j] > 0:
                    matrix[i, j] = (entropies[i] + entropies[j]) / (log_total - total / pixels)
