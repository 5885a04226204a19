"""Hashes of slices, and distances of hashes.

HASHES     compute(slices) -> int64 (n,). The tolerance counts bits that differ from imagehash's, of 64, on average.
DISTANCES  compute(hashes int64 (n,)) -> (n, n) differing bits
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from bench.peers import Peer

BITS = 64


def _signed(hashes: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.array(hashes, dtype=np.uint64).view(np.int64))


def imagehash_hashes(slices: torch.Tensor) -> torch.Tensor:
    from PIL import Image

    imagehash = pytest.importorskip("imagehash")
    return _signed([int(str(imagehash.dhash(Image.fromarray(pixels))), 16) for pixels in slices.numpy()])


def imagededup_hashes(slices: torch.Tensor) -> torch.Tensor:
    from imagededup.methods import DHash

    encoder = DHash(verbose=False)
    return _signed([int(encoder.encode_image(image_array=pixels), 16) for pixels in slices.numpy()])


def torch_hashes(slices: torch.Tensor) -> torch.Tensor:
    """As one would write it; torch has no Lanczos filter, so the bits are not quite imagehash's.

    In two steps, with the same bits: from 512 pixels to 8 the filter needs more shared memory than torch asks for.
    """
    half_way = interpolate(slices[:, None].float(), (128, 144), mode="bicubic", antialias=True)
    small = interpolate(half_way, (8, 9), mode="bicubic", antialias=True)[:, 0]
    bits = (small[:, :, 1:] > small[:, :, :-1]).flatten(1).long()
    return (bits << torch.arange(BITS - 1, -1, -1, device=slices.device)).sum(1)


HASHES = (
    Peer("imagehash", "imagehash", imagehash_hashes, "cpu", 0),
    Peer("imagededup", "imagededup", imagededup_hashes, "cpu", 0),
    Peer("torch, batched (bicubic)", "torch", torch_hashes, tolerance=6),
)


def imagehash_distances(hashes: torch.Tensor) -> torch.Tensor:
    imagehash = pytest.importorskip("imagehash")
    objects = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes.numpy().view(np.uint64).tolist()]
    return torch.tensor([[a - b for b in objects] for a in objects])


def imagededup_distances(hashes: torch.Tensor) -> torch.Tensor:
    from imagededup.methods import DHash

    texts = [f"{value:016x}" for value in hashes.numpy().view(np.uint64).tolist()]
    return torch.tensor([[int(DHash.hamming_distance(a, b)) for b in texts] for a in texts])


def numpy_distances(hashes: torch.Tensor) -> torch.Tensor:
    values = hashes.numpy().view(np.uint64)
    return torch.from_numpy(np.bitwise_count(values[:, None] ^ values[None]))


def torch_distances(hashes: torch.Tensor) -> torch.Tensor:
    """As one would write it: bits as -1 and 1, and a matrix product."""
    bits = (hashes[:, None] >> torch.arange(BITS, device=hashes.device) & 1).float() * 2 - 1
    return (BITS - bits @ bits.T) / 2


FEW = 100  # hashes for those that take a Python call a pair


def faiss_distances(hashes: torch.Tensor) -> torch.Tensor:
    """IndexBinaryFlat's range search with a radius that takes all."""
    distances = torch.empty((len(hashes), len(hashes)), dtype=torch.uint8)
    limits, found, places = faiss_neighbours(hashes, BITS)
    rows = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    distances.numpy()[rows, places] = found
    return distances


def faiss_leader(hashes: torch.Tensor, bits: int) -> NDArray[np.int64]:
    """The authors' walk over the neighbours that FAISS finds: the first that is left stays, its neighbours go."""
    limits, _, places = faiss_neighbours(hashes, bits)
    left, kept = np.ones(len(hashes), dtype=bool), []
    for i in range(len(hashes)):
        if left[i]:
            kept.append(i)
            left[places[limits[i] : limits[i + 1]]] = False
    return np.array(kept)


def faiss_neighbours(hashes: torch.Tensor, bits: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(limits, distances, places) of all hashes at most `bits` from each, itself among them; see range_search."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    data = hashes.numpy().view(np.uint8).reshape(-1, BITS // 8)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(data)
    limits, distances, places = index.range_search(data, bits + 1)  # what is nearer than the radius
    return limits, distances, places


SLOW = (imagehash_distances, imagededup_distances)
DISTANCES = (
    Peer("imagehash", "imagehash", imagehash_distances, "cpu", 0),
    Peer("imagededup", "imagededup", imagededup_distances, "cpu", 0),
    Peer("NumPy", "numpy", numpy_distances, "cpu", 0),
    Peer("FAISS", "faiss", faiss_distances, "cpu", 0),
    Peer("torch, batched", "torch", torch_distances, tolerance=0),
)
