"""Time and memory against the number of slices: time must grow as pairs do, and 5,000 slices must fit."""

from __future__ import annotations

import pytest

import lim_gpu
from bench import inputs
from bench.kernels import pair_count

SIZES = {"cpu": (32, 64, 125, 250), "cuda": (125, 250, 500, 1000, 2000, 5000)}
METHODS = {"ssim": "SSIM", "mi": "MI", "hash": "HASH"}


@pytest.mark.budget(15)
@pytest.mark.parametrize("n", SIZES["cpu"])
@pytest.mark.parametrize("method", METHODS)
def test_growth(method, n, timed):
    slices = inputs.volume(n, "cpu")
    timed(
        METHODS[method], "pair", "lim_gpu, 1 thread",
        lambda: lim_gpu.similarity_matrix(slices, method, device="cpu"), pair_count(n), 3, table="growth", n=n,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.budget(12)
@pytest.mark.parametrize("n", SIZES["cuda"])
@pytest.mark.parametrize("method", METHODS)
def test_growth_on_gpu(method, n, timed):
    slices = inputs.volume(n, "cuda")
    timed(
        METHODS[method], "pair", "lim_gpu", lambda: lim_gpu.similarity_matrix(slices, method), pair_count(n), 3,
        table="growth", n=n,
    )  # fmt: skip
