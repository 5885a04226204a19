"""HASH against imagehash: the hashes, and the distances of all pairs."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
import torch
from PIL import Image

import lim_gpu
from lim_gpu.similarity.hash import hamming_matrix

HASHES, DISTANCES = "HASH, 512 x 512, hash", "HASH, distances"
N = 5000
IMAGEHASH_N = 100  # 10,000 distances; it takes a Python call for each


def with_imagehash(slices):
    return [imagehash.dhash(Image.fromarray(pixels)) for pixels in slices]


def check(matrix, slices):
    hashes = with_imagehash(slices)
    expected = [[1 - (a - b) / 64 for b in hashes] for a in hashes]
    np.testing.assert_array_equal(matrix.cpu().numpy(), expected)


def random_hashes():
    return np.random.default_rng(0).integers(0, 2**64, N, dtype=np.uint64)


def test_imagehash(slices, timed):
    timed(HASHES, "slice", "imagehash", lambda: with_imagehash(slices), len(slices))


@pytest.mark.parametrize("threads", [1, 2])
def test_cpu(slices, timed, threads):
    torch.set_num_threads(threads)
    check(lim_gpu.similarity_matrix(slices, "hash", device="cpu"), slices)
    peer = f"lim_gpu, CPU, {threads} thread{'s' * (threads > 1)}"
    timed(HASHES, "slice", peer, lambda: lim_gpu.similarity_matrix(slices, "hash", device="cpu"), len(slices))


@pytest.mark.gpu
def test_gpu(slices, timed):
    many = torch.from_numpy(np.concatenate([np.roll(slices, shift, axis=2) for shift in range(12)])).cuda()
    check(lim_gpu.similarity_matrix(many, "hash")[:40, :40], slices)

    def compute():
        lim_gpu.similarity_matrix(many, "hash")
        torch.cuda.synchronize()

    timed(HASHES, "slice", f"lim_gpu, GPU, n = {len(many)}", compute, len(many))


def test_imagehash_distances(timed):
    hashes = [imagehash.hex_to_hash(f"{value:016x}") for value in random_hashes()[:IMAGEHASH_N]]
    timed(DISTANCES, "pair", "imagehash", lambda: [[a - b for b in hashes] for a in hashes], IMAGEHASH_N**2)


def test_cpu_distances(timed):
    hashes = random_hashes()
    few = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes[:20]]
    assert hamming_matrix(hashes)[:20, :20].tolist() == [[a - b for b in few] for a in few]
    timed(DISTANCES, "pair", f"lim_gpu, CPU, 1 thread, n = {N}", lambda: hamming_matrix(hashes), N * N)


@pytest.mark.gpu
def test_gpu_distances(timed):
    from lim_gpu.similarity.cuda.hash import hamming_matrix as on_gpu

    hashes = random_hashes()
    there = torch.from_numpy(hashes.view(np.int64)).cuda()
    np.testing.assert_array_equal(on_gpu(there).cpu().numpy(), hamming_matrix(hashes))

    def compute():
        on_gpu(there)
        torch.cuda.synchronize()

    timed(DISTANCES, "pair", f"lim_gpu, GPU, n = {N}", compute, N * N)
