"""HASH: the 64-bit difference hash (imagehash 4 `dhash`, hash_size 8) and its Hamming distance; similarity 1 - bits/64.

A slice shrinks to 9 x 8 by Pillow's Lanczos filter; a bit is set where a pixel is brighter than its left neighbour;
rows go from top to bottom, the first bit is the most significant (Wolf et al. 2024, section 2.1).

How it is fast. Pillow's filter is in whole numbers, so its sums may be taken in any order. A weight has more than the
16 bits that a multiply-add of pairs of numbers takes; the few bits below those add less than a tenth of a grey level to
a sum that is then rounded, and are summed where that could change it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.compiled import compiled
from lim_gpu.similarity.blocks import Threads
from lim_gpu.similarity.lanczos import ACROSS, DOWN, PRECISION, lanczos_weights, rows_first

BITS = (ACROSS - 1) * DOWN
LANES = 32  # pixels that are multiplied at once: a window is a multiple of so many where the image has them


def dhash(slices: NDArray[np.uint8], threads: int | None = None) -> NDArray[np.uint64]:
    """Difference hashes (n,) of slices (n, H, W), any H, W >= 1; `f"{h:016x}"` is imagehash's text.

    threads: as many as torch would take by default.
    """
    _, height, width = slices.shape
    hashes = np.empty(len(slices), np.uint64)
    filters = _filter(width, ACROSS), _filter(height, DOWN)
    with Threads(threads) as pool:
        pool.run(_hash, np.arange(len(slices)), slices, *filters, rows_first(height, width), hashes)
    return hashes


def dhash_of(image: NDArray[np.uint8]) -> int:
    """The hash of one slice (H, W) by Pillow itself: for one image at a time, and what `dhash` must equal."""
    small = np.asarray(Image.fromarray(image).resize((ACROSS, DOWN), Image.Resampling.LANCZOS))
    return int(np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0])


class Filter(NamedTuple):
    """Pillow's weights (outputs, size) of one direction, as high * 2^shift + low.

    most: of each output, what `low` can add to its sum; first, last: the pixels that have any weight
    """

    high: NDArray[np.int16]
    low: NDArray[np.int16]
    shift: int
    most: NDArray[np.int64]
    first: NDArray[np.int32]
    last: NDArray[np.int32]


@lru_cache(maxsize=64)
def _filter(size: int, outputs: int) -> Filter:
    weights, first, last = lanczos_weights(size, outputs, PRECISION)
    shift = max(0, int(np.abs(weights).max()).bit_length() - 15)
    high, low = weights >> shift, weights & (1 << shift) - 1
    first, last = first // LANES * LANES, np.minimum(-(-last // LANES) * LANES, size)
    most = 255 * low.sum(axis=1, dtype=np.int64)
    return Filter(high.astype(np.int16), low.astype(np.int16), shift, most, first, last)


@compiled()
def _hash(share, slices, across, down, rows_come_first, hashes):  # type: ignore[no-untyped-def]
    for i in share:
        if rows_come_first:
            small = _narrow(np.ascontiguousarray(_narrow(slices[i], across).T), down).T
        else:
            small = _narrow(np.ascontiguousarray(_narrow(np.ascontiguousarray(slices[i].T), down).T), across)
        bits = np.uint64(0)
        for row in range(small.shape[0]):
            for column in range(1, small.shape[1]):
                bits = bits << np.uint64(1) | np.uint64(small[row, column] > small[row, column - 1])
        hashes[i] = bits


@compiled()
def _narrow(image, weights):  # type: ignore[no-untyped-def]
    """An image (H, W) as (H, outputs), each row resampled and rounded as Pillow does."""
    narrow = np.empty((image.shape[0], weights.high.shape[0]), np.uint8)
    for row in range(image.shape[0]):
        for k in range(weights.high.shape[0]):
            first, last = weights.first[k], weights.last[k]
            pixels = image[row, first:last]
            total = (_dot(pixels, weights.high[k, first:last]) << weights.shift) + (1 << (PRECISION - 1))
            if total >> PRECISION != (total + weights.most[k]) >> PRECISION:
                total += _dot(pixels, weights.low[k, first:last])
            narrow[row, k] = min(max(total >> PRECISION, 0), 255)
    return narrow


@compiled(inline="always")
def _dot(pixels, weights):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for i in range(len(pixels)):
        total = np.int32(total + np.int32(pixels[i]) * np.int32(weights[i]))  # cast, else sums have 64 bits
    return np.int64(total)


def hamming_matrix(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Differing bits of every pair of hashes (n,), uint8 (n, n), 0..64."""
    distances = np.empty((len(hashes), len(hashes)), np.uint8)
    with Threads() as pool:
        pool.run(_hamming, np.arange(len(hashes)), hashes, distances)
    return distances


def matrix_of_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Similarities 1 - bits/64 of hashes (n,), float32 (n, n) in [0, 1]: exact, so thresholds in bits stay exact."""
    matrix = hamming_matrix(hashes).astype(np.float32)
    matrix /= -BITS
    matrix += 1
    return matrix


def close_pairs(hashes: NDArray[np.uint64], bits: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs i < j of hashes (n,) at most `bits` apart and of different groups (n,), as (pairs, 3): i, j, distance.

    Ascending by (i, j). No n x n matrix: the rows of a block at a time, each counted, then listed.
    """
    rows = np.arange(len(hashes))
    count = np.zeros(len(hashes), dtype=np.int64)
    with Threads() as pool:
        pool.run(_count_close, rows, hashes, bits, groups, count)
        start = np.concatenate([[0], np.cumsum(count)])
        pairs = np.empty((start[-1], 3), dtype=np.int64)
        pool.run(_list_close, rows, hashes, bits, groups, start, pairs)
    return pairs


@compiled()
def _count_close(share, hashes, bits, groups, count):  # type: ignore[no-untyped-def]
    for i in share:
        for j in range(i + 1, len(hashes)):
            count[i] += groups[i] != groups[j] and distance(hashes[i], hashes[j]) <= bits


@compiled()
def _list_close(share, hashes, bits, groups, start, pairs):  # type: ignore[no-untyped-def]
    for i in share:
        at = start[i]
        if at < start[i + 1]:
            for j in range(i + 1, len(hashes)):
                if groups[i] != groups[j]:
                    apart = distance(hashes[i], hashes[j])
                    if apart <= bits:
                        pairs[at, 0], pairs[at, 1], pairs[at, 2] = i, j, apart
                        at += 1


@compiled()
def distance(x, y):  # type: ignore[no-untyped-def]
    """Set bits of x ^ y, within compiled code: sums in ever wider fields, which LLVM knows as one instruction."""
    v = x ^ y
    v -= (v >> np.uint64(1)) & np.uint64(0x5555555555555555)
    v = (v & np.uint64(0x3333333333333333)) + ((v >> np.uint64(2)) & np.uint64(0x3333333333333333))
    v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((v * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled()
def _hamming(share, hashes, distances):  # type: ignore[no-untyped-def]
    for i in share:
        for j in range(len(hashes)):
            distances[i, j] = distance(hashes[i], hashes[j])
