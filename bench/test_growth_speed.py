"""Time and memory against the number of slices: time must grow as pairs do, and 5,000 slices must fit."""

from __future__ import annotations

import pytest
import torch

import lim_gpu
from bench import inputs
from bench.kernels import pair_count

SIZES = (125, 250, 500, 1000, 2000, 5000)
MOST = {"ssim": 500, "mi": 1000, "hash": 2000}  # on the CPU; one more doubling would take minutes
METHODS = {"ssim": "SSIM", "mi": "MI", "hash": "HASH"}
FEW = 8  # slices to warm up with


@pytest.mark.budget(10)
@pytest.mark.parametrize(("method", "n"), [(method, n) for method, most in MOST.items() for n in SIZES if n <= most])
def test_growth(method, n, timed):
    slices = inputs.volume(n, "cpu")

    def compute(count: int) -> torch.Tensor:
        return lim_gpu.similarity_matrix(slices[:count], method, device="cpu")

    timed(
        METHODS[method], "pair", "lim_gpu, 1 thread", lambda: compute(n), pair_count(n), 3, table="growth", n=n,
        warm_up=lambda: compute(FEW),
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.budget(12)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_growth_on_gpu(method, n, timed):
    slices = inputs.volume(n, "cuda")
    timed(
        METHODS[method], "pair", "lim_gpu", lambda: lim_gpu.similarity_matrix(slices, method), pair_count(n), 3,
        table="growth", n=n, warm_up=lambda: lim_gpu.similarity_matrix(slices[:FEW], method),
    )  # fmt: skip
