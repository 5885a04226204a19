"""HASH: the 64-bit difference hash (imagehash 4 `dhash`, hash_size 8) and its Hamming distance; similarity 1 - bits/64.

A slice shrinks to 9 x 8 by Pillow's Lanczos filter; a bit is set where a pixel is brighter than its left neighbour;
rows go from top to bottom, the first bit is the most significant (Wolf et al. 2024, section 2.1). Here Pillow itself
resamples, so the bits are imagehash's by construction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.similarity.blocks import Threads, compiled

SIDE = 8  # bits a row, and rows
BITS = SIDE * SIDE


def dhash(slices: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Difference hashes (n,) of slices (n, H, W), any H, W >= 1; `f"{h:016x}"` is imagehash's text."""
    hashes = np.empty(len(slices), ">u8")
    with Threads() as pool:
        pool.run(_hash, np.arange(len(slices)), slices, hashes)
    return hashes.astype(np.uint64)


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


def dhash_of(image: NDArray[np.uint8]) -> int:
    """The hash of one slice (H, W), without a pool."""
    small = np.asarray(Image.fromarray(image).resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS))
    return int(np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0])


def _hash(share: NDArray[np.int64], slices: NDArray[np.uint8], hashes: NDArray[Any]) -> None:
    for i in share:  # Pillow resamples without the GIL
        hashes[i] = dhash_of(slices[i])


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
