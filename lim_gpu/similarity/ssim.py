"""SSIM (Wang et al. 2004, IEEE TIP 13:600): 11 x 11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03, biased covariance.

The mean over the valid region, equal to scikit-image's structural_similarity(gaussian_weights=True, sigma=1.5,
use_sample_covariance=False) within 1e-5.

How float32 suffices. The weights w[-5..5] sum to 1, so the Gaussian mean of p differs from its centre by differences:

    mean(p)[c] - p[c] = sum over m = 1..5 of tail[m] * (step[c + m - 1] - step[c - m])
    step[c] = p[c + 1] - p[c],  tail[m] = w[m] + ... + w[5]

and with d = mean - centre of each slice

    cov(x, y) = (mean(x y) - xc yc) - (xc dy + yc dx + dx dy)

so nothing large is subtracted from something large: a flat region, saturated or not, has exactly no variance. The
middle of each slice's values is taken off first, which no covariance sees, and given back to the means.

How it is fast. d and the variance belong to a slice and are computed once; a pair costs the filtered product and the
formula. Slices are cut into tiles that stay in cache, and blocks of slices meet blocks of slices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.errors import InputError
from lim_gpu.similarity.blocks import Threads, aligned, pair_blocks, scratch, symmetric

RADIUS, SIGMA, K1, K2 = 5, 1.5, 0.01, 0.03
WINDOW = 2 * RADIUS + 1

ROWS, COLUMNS = 16, 512  # of a tile: 120 KiB a slice with its fields
BLOCK = 4  # slices: two blocks fill an L2 cache of 1 MiB
LANES = 16  # float32 in an AVX-512 register; tile widths are multiples
# Shapes below: a tile has (rows, columns) windows, of (depth, breadth) = (rows + 2 RADIUS, columns + LANES) pixels;
# the last LANES - 2 RADIUS columns of those are in no window. What Numba compiles writes into its arguments.


def gaussian() -> NDArray[np.float64]:
    """The 11 weights of one axis, float64, sum 1."""
    weights = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    return weights / weights.sum()


def ssim_matrix(slices: NDArray[Any], data_range: float) -> NDArray[np.float32]:
    """SSIM of every pair of slices (n, H, W), uint8 or float32, as float32 (n, n) in [-1, 1], ones on the diagonal.

    A pair's value depends on its two slices alone: not on n, on the order of the slices or on the number of threads.
    """
    return symmetric(_upper(slices, data_range, np.float32), -1, 1, diagonal=1)


def ssim_pair(x: NDArray[Any], y: NDArray[Any], data_range: float) -> float:
    """SSIM of two slices (H, W) in float64."""
    pair = np.stack([x, y]).astype(np.float64)
    return float(np.clip(_upper(pair, data_range, np.float64, threads=1)[0, 1], -1, 1))


def check_sides(height: int, width: int) -> None:
    """Raise InputError for slices that are smaller than the window."""
    if min(height, width) < WINDOW:
        what = f"slices of {height} x {width} pixels: SSIM needs at least {WINDOW} x {WINDOW}"
        raise InputError(f"{what}. Use another method")


def _upper(
    slices: NDArray[Any], data_range: float, dtype: type[np.floating], threads: int | None = None
) -> NDArray[np.float64]:
    """SSIM of the pairs i < j, computed in `dtype`, as a float64 upper triangle (n, n)."""
    n, height, width = slices.shape
    check_sides(height, width)
    inner_height, inner_width = height - 2 * RADIUS, width - 2 * RADIUS
    tiles = -(-inner_width // COLUMNS)
    columns = -(-inner_width // (tiles * LANES)) * LANES
    scale = 2.0 ** -round(math.log2(data_range))  # exact; keeps the formula's products away from the ends of float32
    c1, c2 = (dtype((k * data_range * scale) ** 2) for k in (K1, K2))
    tail = np.cumsum(gaussian()[::-1])[:RADIUS][::-1].astype(dtype)  # tail[m - 1] = w[m] + ... + w[5]
    x = aligned((tiles, n, ROWS + 2 * RADIUS, columns + LANES), dtype)
    deviation, variance = aligned((2, tiles, n, ROWS, columns), dtype)
    middle = _middles(slices, dtype)
    raised = middle * dtype(scale)
    blocks, totals = pair_blocks(n, BLOCK), np.zeros((n, n))
    with Threads(threads) as pool:
        for top in range(0, inner_height, ROWS):
            share = np.arange(n)
            pool.run(_prepare, share, slices, middle, top, dtype(scale), tail, c2 / dtype(2), x, deviation, variance)
            rows = min(ROWS, inner_height - top)
            pool.run(_add_pairs, blocks, x, raised, deviation, variance, tail, c1, c2, rows, inner_width, totals)
    return totals / (inner_height * inner_width)


@compiled(fastmath={"contract"})
def _excess(x, i, y, j, tail, step, smooth, above, out):  # type: ignore[no-untyped-def]
    """out = Gaussian mean of x[i] * y[j] less its centre value, by differences (see the head).

    x, y    (n, depth, breadth), (m, depth, breadth): one tile of slices
    tail    (RADIUS,)
    step    (depth - 1, breadth), scratch: p[r + 1] - p[r] of the product p
    smooth  (rows, breadth), scratch: p after the pass down its columns
    above   (rows, breadth), scratch: what that pass added to p
    out     (rows, columns)
    """
    t1, t2, t3, t4, t5 = (
        tail[0],
        tail[1],
        tail[2],
        tail[3],
        tail[4],
    )  # sums written out: loops over m are 1.4 x slower
    for r in range(step.shape[0]):
        for c in range(step.shape[1]):
            step[r, c] = x[i, r + 1, c] * y[j, r + 1, c] - x[i, r, c] * y[j, r, c]
    for r in range(smooth.shape[0]):
        at = r + RADIUS
        for c in range(smooth.shape[1]):
            above[r, c] = (
                t5 * (step[at + 4, c] - step[at - 5, c])
                + t4 * (step[at + 3, c] - step[at - 4, c])
                + t3 * (step[at + 2, c] - step[at - 3, c])
                + t2 * (step[at + 1, c] - step[at - 2, c])
                + t1 * (step[at, c] - step[at - 1, c])
            )
            smooth[r, c] = x[i, at, c] * y[j, at, c] + above[r, c]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            # The values under the window, left to right; t_m weighs the step m to the right less the one m to the left.
            s0, s1, s2, s3, s4 = smooth[r, c], smooth[r, c + 1], smooth[r, c + 2], smooth[r, c + 3], smooth[r, c + 4]
            s5 = smooth[r, c + RADIUS]
            s6, s7, s8, s9, s10 = (
                smooth[r, c + 6],
                smooth[r, c + 7],
                smooth[r, c + 8],
                smooth[r, c + 9],
                smooth[r, c + 10],
            )
            out[r, c] = above[r, c + RADIUS] + (
                t5 * ((s10 - s9) - (s1 - s0))
                + t4 * ((s9 - s8) - (s2 - s1))
                + t3 * ((s8 - s7) - (s3 - s2))
                + t2 * ((s7 - s6) - (s4 - s3))
                + t1 * ((s6 - s5) - (s5 - s4))
            )


def _middles(slices: NDArray[Any], dtype: type[np.floating]) -> NDArray[Any]:
    """The middle (n,) between the lowest and highest value of each slice."""
    flat = slices.reshape(len(slices), -1)
    low, high = (values.astype(dtype) for values in (flat.min(axis=1), flat.max(axis=1)))
    return low / dtype(2) + high / dtype(2)


@compiled()
def _prepare(share, slices, middle, top, scale, tail, half_c2, x, deviation, variance):  # type: ignore[no-untyped-def]
    """Cut rows top.. of the slices in `share` into tiles, with deviation = mean - centre, and variance + C2 / 2.

    share      numbers of slices (k,)
    slices     (n, H, W)
    middle     (n,), taken off before the rest is multiplied by `scale`
    tail       (RADIUS,)
    x          (tiles, n, depth, breadth), written
    deviation  (tiles, n, rows, columns), written
    variance   (tiles, n, rows, columns), written
    """
    tiles, _, depth, breadth = x.shape
    rows, columns = deviation.shape[2:]
    step, smooth, above = scratch(depth - 1, breadth, x), scratch(rows, breadth, x), scratch(rows, breadth, x)
    ones = np.ones((1, depth, breadth), x.dtype)
    for t in range(tiles):
        left = t * columns
        for i in share:
            for r in range(min(depth, slices.shape[1] - top)):
                for c in range(min(breadth, slices.shape[2] - left)):
                    x[t, i, r, c] = (slices[i, top + r, left + c] - middle[i]) * scale
            d, v = deviation[t, i], variance[t, i]
            _excess(x[t], i, ones, 0, tail, step, smooth, above, d)
            _excess(x[t], i, x[t], i, tail, step, smooth, above, v)
            for r in range(rows):
                for c in range(columns):
                    centre = x[t, i, r + RADIUS, c + RADIUS]
                    v[r, c] = v[r, c] - (centre * d[r, c] + centre * d[r, c] + d[r, c] * d[r, c]) + half_c2


@compiled()  # no fused multiply-add: in x dy + y dx it would tell x from y, and (i, j) would differ from (j, i)
def _add_ssim(x, raised, deviation, variance, i, j, product, c1, c2, rows, sums):  # type: ignore[no-untyped-def]
    """Add the SSIM of slices i and j in the first `rows` rows of a tile to `sums` (columns,).

    x                    (n, depth, breadth), one tile: pixels less the middle of their slice
    raised               (n,): those middles, which the means get back
    deviation, variance  (n, rows, columns), as `_prepare` made them
    product              (rows, columns): the mean of x y less its centre
    """
    for r in range(rows):
        for c in range(sums.shape[0]):
            xc, yc = x[i, r + RADIUS, c + RADIUS], x[j, r + RADIUS, c + RADIUS]
            dx, dy = deviation[i, r, c], deviation[j, r, c]
            mx, my = (raised[i] + xc) + dx, (raised[j] + yc) + dy
            covariance = product[r, c] - (xc * dy + yc * dx + dx * dy)
            luminance = mx * my + mx * my + c1
            apart = mx - my
            numerator = luminance * (covariance + covariance + c2)
            sums[c] += numerator / ((luminance + apart * apart) * (variance[i, r, c] + variance[j, r, c]))


@compiled(fastmath={"reassoc"})
def _total(values, count):  # type: ignore[no-untyped-def]
    """Sum of the first `count` of `values` (columns,), float64, in an order that the compiled code fixes."""
    total = 0.0
    for c in range(count):
        total += values[c]
    return total


@compiled()
def _add_pairs(share, x, raised, deviation, variance, tail, c1, c2, rows, inner_width, totals):  # type: ignore[no-untyped-def]
    """Add the tiles of one strip of rows to `totals` for the pairs i < j of the blocks in `share`.

    share   (k, 2): the first slices of two blocks
    totals  (n, n), float64
    The other arrays are those of `_prepare`, and `raised` of `_add_ssim`.
    """
    tiles, n, depth, breadth = x.shape
    columns = deviation.shape[3]
    step, smooth, above = scratch(depth - 1, breadth, x), scratch(ROWS, breadth, x), scratch(ROWS, breadth, x)
    product, sums = scratch(ROWS, columns, x), scratch(1, columns, x)[0]
    for b in range(len(share)):
        for t in range(tiles):
            xt, dt, vt = x[t], deviation[t], variance[t]
            for i in range(share[b, 0], min(share[b, 0] + BLOCK, n)):
                for j in range(max(share[b, 1], i + 1), min(share[b, 1] + BLOCK, n)):
                    _excess(xt, i, xt, j, tail, step, smooth, above, product)
                    sums[:] = 0
                    _add_ssim(xt, raised, dt, vt, i, j, product, c1, c2, rows, sums)
                    totals[i, j] += _total(sums, min(columns, inner_width - t * columns))
