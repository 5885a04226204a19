"""fletcher32 (`lim_gpu.store.checksum`) in compiled code: HDF5's own takes longer than the reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.store.checksum import MODULUS, TURN

LANES = 16  # pairs of words side by side, of a row: what is read goes on from one line of the cache to the next
ROWS = 32  # that are summed at once
MOST_ROWS = 11 * ROWS  # whose sums fit in 32 bits: 65,535 * 352 * 353 / 2 < 2^32


def of_slices(slices: NDArray[Any]) -> NDArray[np.uint32]:
    """The checksums (m,) of slices (m, H, W), C-contiguous, of any dtype; each half in 0..65,534."""
    data = slices.reshape(len(slices), -1).view(np.uint8)
    even = data.shape[1] // 2 * 2
    last = data[:, even] if even < data.shape[1] else np.zeros(0, np.uint8)
    words = np.ascontiguousarray(data[:, :even]).view(np.uint16)
    pairs = words.view(np.uint32) if words.shape[1] % 2 == 0 else np.zeros((len(words), 0), np.uint32)
    return _sums(pairs, words, last, TURN)


def reduced(checksums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Checksums as HDF5 stores them, each half in 0..65,534: of 65,535 and 0 it makes one."""
    halves = np.asarray(checksums, np.uint32)
    return np.asarray((halves >> 16) % MODULUS << 16 | (halves & 0xFFFF) % MODULUS, np.uint32)


@compiled()
def _sums(pairs, words, last, turn):  # type: ignore[no-untyped-def]
    """words: (m, N), which stand in `pairs` (m, N / 2) too if N is even, else (m, 0); last: (m,) or (0,)."""
    found = np.empty(len(words), np.uint32)
    rows = pairs.shape[1] // (LANES * ROWS) * ROWS
    for i in range(len(words)):
        sum1, sum2 = np.uint64(0), np.uint64(0)
        for first in range(0, rows, MOST_ROWS):
            count = min(MOST_ROWS, rows - first)
            plain, weighted = _block(pairs[i, first * LANES : (first + count) * LANES])
            sum2 = (sum2 + sum1 * np.uint64(2 * LANES * count) + weighted) % np.uint64(MODULUS)
            sum1 = (sum1 + plain) % np.uint64(MODULUS)
        for word in words[i, 2 * LANES * rows :]:
            sum1 = (sum1 + np.uint64(word)) % np.uint64(MODULUS)
            sum2 += sum1
        sum1, sum2 = sum1 % np.uint64(MODULUS) * np.uint64(turn), sum2 % np.uint64(MODULUS) * np.uint64(turn)
        if len(last):
            sum1 += np.uint64(last[i]) << np.uint64(8)
            sum2 += sum1
        found[i] = sum2 % np.uint64(MODULUS) << np.uint64(16) | sum1 % np.uint64(MODULUS)
    return found


@compiled()
def _block(pairs):  # type: ignore[no-untyped-def]
    """Sum, and sum weighted N .. 1, of the N words in `pairs` (rows * LANES,), at most MOST_ROWS rows.

    A lane sums its pairs, and these sums after each row, so that a row counts as often as rows are left. Pairs are
    summed as they are, modulo 2^32, and their upper words alone: what is missing is the sum of the lower, which fits.
    The word 2 k + h of a row has the weight 2 LANES (rows left) - 2 k - h.
    """
    both, upper = np.zeros(LANES, np.uint32), np.zeros(LANES, np.uint32)
    both_left, upper_left = np.zeros(LANES, np.uint32), np.zeros(LANES, np.uint32)
    for first in range(0, len(pairs), ROWS * LANES):
        _add(pairs[first : first + ROWS * LANES], both, upper, both_left, upper_left)
    half = np.uint32(16)
    plain, weighted = np.uint64(0), np.uint64(0)
    for k in range(LANES):
        words = np.uint64(np.uint32(both[k] - (upper[k] << half))) + np.uint64(upper[k])
        left = np.uint64(np.uint32(both_left[k] - (upper_left[k] << half))) + np.uint64(upper_left[k])
        plain += words
        weighted += np.uint64(2 * LANES) * left - np.uint64(2 * k) * words - np.uint64(upper[k])
    return plain, weighted


@compiled()
def _add(pairs, both, upper, both_left, upper_left):  # type: ignore[no-untyped-def]
    """ROWS rows of `pairs`, in order: each lane's sums stay in registers meanwhile."""
    for k in range(LANES):
        b, u, b_left, u_left = both[k], upper[k], both_left[k], upper_left[k]
        for row in range(ROWS):
            pair = pairs[row * LANES + k]
            b = np.uint32(b + pair)  # cast, else sums have 64 bits
            u = np.uint32(u + (pair >> np.uint32(16)))
            b_left = np.uint32(b_left + b)
            u_left = np.uint32(u_left + u)
        both[k], upper[k], both_left[k], upper_left[k] = b, u, b_left, u_left
