"""HASH: the 64-bit difference hash of imagehash 4 (9 x 8, Lanczos) and its Hamming distance; similarity 1 - bits/64.

A slice shrinks to 9 x 8 with Pillow's Lanczos filter; a bit is set where the right neighbour is brighter; rows from top
to bottom, the first bit the most significant. (Wolf et al. 2024, section 2.1; imagehash.dhash.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.similarity.blocks import thread_count

WIDTH, HEIGHT = 9, 8
BITS = (WIDTH - 1) * HEIGHT
ROWS = 256  # rows of the distance matrix at a time: the 64-bit differences of all would be 8 n² bytes


def dhash(slices: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes (n,) of slices (n, H, W), any H, W >= 1; bit for bit those of imagehash, by Pillow's own resampling."""
    if len(slices) < 2:
        return np.array([_dhash_one(pixels) for pixels in slices], dtype=np.uint64)
    with ThreadPoolExecutor(thread_count()) as pool:  # Pillow resamples without the GIL
        return np.array(list(pool.map(_dhash_one, slices)), dtype=np.uint64)


def _dhash_one(pixels: NDArray[np.uint8]) -> int:
    small = np.asarray(Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def hamming_matrix(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Distances (n, n) in bits, 0..64, of hashes (n,)."""
    distances = np.empty((len(hashes), len(hashes)), dtype=np.uint8)
    for start in range(0, len(hashes), ROWS):
        np.bitwise_count(hashes[start : start + ROWS, None] ^ hashes[None], out=distances[start : start + ROWS])
    return distances


def matrix_of_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Similarities (n, n), 1 - bits/64 in [0, 1]: exact in float32."""
    return np.float32(1) - hamming_matrix(hashes) / np.float32(BITS)
