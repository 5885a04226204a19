"""fletcher32 as HDF5 stores it behind a chunk, in compiled code: the library's own takes as long as the reading.

The words of a chunk are big-endian whatever the machine, w_0 .. w_(N-1); an odd last byte is a word's upper half:

    sum1 = w_0 + ... + w_(N-1),   sum2 = N w_0 + (N - 1) w_1 + ... + w_(N-1),   both modulo 65,535

(H5_checksum_fletcher32 in HDF5's H5checksum.c). A word read in the machine's order is the same word times 256 modulo
65,535, so the bytes are turned around once a sum and not once a word. HDF5 writes 65,535 for a sum that is 0 and not of
zeros alone: to `reduced` the two are one.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MODULUS = 65535
BLOCK = 256  # words whose sums fit in 32 bits: 65,535 * 256 * 257 / 2 < 2^32
TURN = 256 if sys.byteorder == "little" else 1


def of_slices(slices: NDArray[Any]) -> NDArray[np.uint32]:
    """The checksums (m,) of slices (m, H, W), C-contiguous, of any dtype; each half in 0..65,534."""
    data = slices.reshape(len(slices), -1).view(np.uint8)
    even = data.shape[1] // 2 * 2
    last = data[:, even] if even < data.shape[1] else np.zeros(0, np.uint8)
    words = data[:, :even] if even == data.shape[1] else np.ascontiguousarray(data[:, :even])
    return _sums(words.view(np.uint16), last, TURN)


def reduced(checksums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Checksums as HDF5 stores them, each half in 0..65,534."""
    halves = np.asarray(checksums, np.uint32)
    return np.asarray((halves >> 16) % MODULUS << 16 | (halves & 0xFFFF) % MODULUS, np.uint32)


@njit(cache=True, nogil=True)
def _sums(words: NDArray[np.uint16], last: NDArray[np.uint8], turn: int) -> NDArray[np.uint32]:
    """words: (m, N), last: (m,) or (0,)."""
    found = np.empty(len(words), np.uint32)
    for i in range(len(words)):
        sum1, sum2 = np.uint64(0), np.uint64(0)
        for start in range(0, words.shape[1], BLOCK):
            block = words[i, start : start + BLOCK]
            plain, weighted = np.uint32(0), np.uint32(0)
            for k in range(len(block)):
                word = np.uint32(block[k])
                plain += word
                weighted += word * np.uint32(len(block) - k)
            sum2 += sum1 * np.uint64(len(block)) + np.uint64(weighted)
            sum1 += np.uint64(plain)
            sum2 %= np.uint64(MODULUS)
        sum1, sum2 = sum1 % np.uint64(MODULUS) * np.uint64(turn), sum2 * np.uint64(turn)
        if len(last):
            sum1 += np.uint64(last[i]) << np.uint64(8)
            sum2 += sum1
        found[i] = sum2 % np.uint64(MODULUS) << np.uint64(16) | sum1 % np.uint64(MODULUS)
    return found
