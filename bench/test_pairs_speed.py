"""SSIM and MI of pairs of slices: peers on some pairs, lim_gpu on all pairs of the same slices."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch

import lim_gpu
from bench import inputs, limits, peers
from bench.kernels import pair_count
from lim_gpu.similarity.mi import mi_pair
from lim_gpu.similarity.ssim import ssim_pair

CHECKED = list(combinations(range(0, 40, 10), 2))  # 6 of the 780 pairs; on the CPU peers are timed on them
PEER_PAIRS = {"cpu": CHECKED, "cuda": [*CHECKED, *list(combinations(range(40), 2))[:250]]}
SIZES = (128, 256, 512)  # slices of a volume on a GPU


@dataclass(frozen=True)
class Job:
    """A method; its float64 value of two slices, which scikit-image confirms in the same run; what lim_gpu keeps."""

    title: str
    pair: Callable[[np.ndarray, np.ndarray], float]
    tolerance: float

    def error(self, values: torch.Tensor, slices: torch.Tensor, tolerance: float) -> float:
        """The largest deviation of the values of CHECKED."""
        images = slices[:40].cpu().numpy()
        expected = torch.tensor([self.pair(images[i], images[j]) for i, j in CHECKED], dtype=torch.float64)
        error = float((values[: len(CHECKED)].cpu().double() - expected).abs().max())
        assert error <= tolerance
        return error


JOBS = {
    "ssim": Job("SSIM", lambda x, y: ssim_pair(x, y, 255), 1e-5),
    "mi": Job("MI, 100 bins", lambda x, y: mi_pair(x, y, peers.BINS), 1e-6),
}


def of_pairs(matrix: torch.Tensor) -> torch.Tensor:
    return torch.stack([matrix[i, j] for i, j in CHECKED])


PEERS = [*peers.params(peers.SSIM, "ssim"), *peers.params(peers.MI, "mi")]


@pytest.mark.parametrize(("method", "peer", "device"), PEERS)
def test_peer(method, peer, device, timed):
    job, pairs = JOBS[method], PEER_PAIRS[device]
    slices = inputs.volume(40, device)
    error = job.error(peer.compute(slices, CHECKED), slices, peer.tolerance)
    timed(job.title, "pair", peer.name, lambda: peer.compute(slices, pairs), len(pairs), n=40, error=error)


@pytest.mark.parametrize("threads", sorted({1, os.cpu_count()}))
@pytest.mark.parametrize("method", JOBS)
def test_lim_gpu(method, threads, slices, timed):
    torch.set_num_threads(threads)
    job, n = JOBS[method], len(slices)
    error = job.error(
        of_pairs(lim_gpu.similarity_matrix(slices, method, device="cpu")), torch.from_numpy(slices), job.tolerance
    )
    timed(
        job.title, "pair", f"lim_gpu, {threads} thread{'s' * (threads > 1)}",
        lambda: lim_gpu.similarity_matrix(slices, method, device="cpu"), pair_count(n), n=n, error=error,
    )  # fmt: skip


def test_limit_of_multiply_adds(slices, timed):
    pixels = slices[0].size
    assert limits.multiply_adds(pixels) >= limits.SSIM_OPERATIONS * pixels
    timed("SSIM", "pair", "limit: its multiply-adds alone, 1 thread", lambda: limits.multiply_adds(pixels), 1, 50)


def test_limit_of_increments(slices, timed):
    x, y = (image // 3 for image in slices[:2])  # 86 of 100 bins
    assert limits.increments(x, y, peers.BINS).sum() == x.size
    name = "limit: an increment a pixel, 1 thread"
    timed("MI, 100 bins", "pair", name, lambda: limits.increments(x, y, peers.BINS), 1, 50)


@pytest.mark.gpu
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", JOBS)
def test_lim_gpu_on_gpu(method, n, timed):
    job = JOBS[method]
    few = inputs.volume(40, "cuda")
    error = job.error(of_pairs(lim_gpu.similarity_matrix(few, method)), few, job.tolerance)
    slices = inputs.volume(n, "cuda")
    timed(
        job.title, "pair", f"lim_gpu, n = {n}", lambda: lim_gpu.similarity_matrix(slices, method), pair_count(n),
        n=n, error=error,
    )  # fmt: skip
