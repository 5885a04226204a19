"""fletcher32 as HDF5 stores it behind a chunk.

The words of a chunk are big-endian whatever the machine, w_0 .. w_(N-1); an odd last byte is a word's upper half:

    sum1 = w_0 + ... + w_(N-1),   sum2 = N w_0 + (N - 1) w_1 + ... + w_(N-1),   both modulo 65,535

(H5_checksum_fletcher32 in HDF5's H5checksum.c). A word read in the machine's order is the same word times 256 modulo
65,535, so the bytes are turned around once a sum and not once a word. HDF5 writes 65,535 for a sum that is 0 and not of
zeros alone.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.store.guards import CHECKSUM

MODULUS = 65535
TURN = 256 if sys.byteorder == "little" else 1
ROW = 1024  # words that are summed at once


def stored(pixels: NDArray[Any]) -> bytes:
    """The four bytes that HDF5 writes behind the chunk of a slice (H, W), C-contiguous.

    By NumPy: a process that writes some hundreds of slices would end before Numba has started.
    """
    data = pixels.reshape(-1).view(np.uint8)
    missing = -len(data) % (2 * ROW)  # zeros behind, each of which adds sum1 to sum2
    padded = np.pad(data, (0, missing)) if missing else data
    # NumPy sums what it need not convert in half the time
    words = padded.view(np.uint16).astype(np.uint32).reshape(-1, ROW)
    across, down = words.sum(axis=0, dtype=np.uint32), words.sum(axis=1, dtype=np.uint32).astype(np.int64)
    sum1 = int(down.sum())
    sum2 = int(across @ np.arange(ROW, 0, -1)) + ROW * int(down @ np.arange(len(down))[::-1]) - missing // 2 * sum1
    low, high = (sum_ * TURN % MODULUS or (MODULUS if sum1 else 0) for sum_ in (sum1, sum2))
    return (high << 16 | low).to_bytes(CHECKSUM, "little")
