"""fletcher32 (`lim_gpu.store.checksum`) in compiled code: HDF5's own takes longer than the reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.store.checksum import MODULUS, TURN

LANES = 32  # pairs of words side by side
BLOCK = 8 * LANES  # words whose sums fit in 32 bits: 65,535 * 256 * 257 / 2 < 2^32


def of_slices(slices: NDArray[Any]) -> NDArray[np.uint32]:
    """The checksums (m,) of slices (m, H, W), C-contiguous, of any dtype; each half in 0..65,534."""
    data = slices.reshape(len(slices), -1).view(np.uint8)
    even = data.shape[1] // 2 * 2
    last = data[:, even] if even < data.shape[1] else np.zeros(0, np.uint8)
    words = np.ascontiguousarray(data[:, :even]).view(np.uint16)
    whole = words.shape[1] // BLOCK * BLOCK if words.shape[1] % 2 == 0 else 0
    return _sums(words.view(np.uint32) if whole else np.zeros((0, 0), np.uint32), whole, words, last, TURN)


def reduced(checksums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Checksums as HDF5 stores them, each half in 0..65,534: of 65,535 and 0 it makes one."""
    halves = np.asarray(checksums, np.uint32)
    return np.asarray((halves >> 16) % MODULUS << 16 | (halves & 0xFFFF) % MODULUS, np.uint32)


@compiled()
def _sums(pairs, whole, words, last, turn):  # type: ignore[no-untyped-def]
    """words: (m, N), of which the first `whole`, in blocks, stand in `pairs` (m, N / 2) too; last: (m,) or (0,)."""
    found = np.empty(len(words), np.uint32)
    for i in range(len(words)):
        sum1, sum2 = np.uint64(0), np.uint64(0)
        for start in range(0, whole, BLOCK):
            plain, weighted = _block(pairs[i, start // 2 : start // 2 + BLOCK // 2])
            sum2 = (sum2 + sum1 * np.uint64(BLOCK) + np.uint64(weighted)) % np.uint64(MODULUS)
            sum1 += np.uint64(plain)
        for word in words[i, whole:]:
            sum1 = (sum1 + np.uint64(word)) % np.uint64(MODULUS)
            sum2 += sum1
        sum1, sum2 = sum1 % np.uint64(MODULUS) * np.uint64(turn), sum2 % np.uint64(MODULUS) * np.uint64(turn)
        if len(last):
            sum1 += np.uint64(last[i]) << np.uint64(8)
            sum2 += sum1
        found[i] = sum2 % np.uint64(MODULUS) << np.uint64(16) | sum1 % np.uint64(MODULUS)
    return found


@compiled(inline="always")
def _block(pairs):  # type: ignore[no-untyped-def]
    """Sum, and sum weighted BLOCK .. 1, of the words in `pairs` (BLOCK / 2,): four rows of LANES, multiplied at once.

    The word 2 k + h of row r has the weight BLOCK - 2 k - h - 2 LANES r: that of the first, less h, less what is below.
    """
    mask, half = np.uint32(0xFFFF), np.uint32(16)
    plain, weighted = np.uint32(0), np.uint32(0)
    row0, row1, row2, row3 = pairs[:LANES], pairs[LANES : 2 * LANES], pairs[2 * LANES : 3 * LANES], pairs[3 * LANES :]
    for k in range(LANES):
        x0, x1, x2, x3 = row0[k], row1[k], row2[k], row3[k]
        h0, h1, h2, h3 = x0 >> half, x1 >> half, x2 >> half, x3 >> half
        from3 = np.uint32((x3 & mask) + h3)  # rows 3 .. 3, and 2 .. 3, 1 .. 3, 0 .. 3; cast, else sums have 64 bits
        from2 = np.uint32(np.uint32((x2 & mask) + h2) + from3)
        from1 = np.uint32(np.uint32((x1 & mask) + h1) + from2)
        from0 = np.uint32(np.uint32((x0 & mask) + h0) + from1)
        below = np.uint32(np.uint32(from1 + from2) + from3)
        high = np.uint32(np.uint32(h0 + h1) + np.uint32(h2 + h3))
        plain = np.uint32(plain + from0)
        first = np.uint32(from0 * np.uint32(BLOCK - 2 * k))
        weighted = np.uint32(weighted + np.uint32(np.uint32(first - np.uint32(below * np.uint32(2 * LANES))) - high))
    return plain, weighted
