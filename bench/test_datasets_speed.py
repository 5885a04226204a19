"""Data sets shaped like the paper's, volume after volume, against the hours that the paper took."""

from __future__ import annotations

import os

import pytest
import torch

import lim_gpu
from bench import datasets, inputs
from bench.parts import Row
from lim_gpu.similarity.deepnet import cosine_matrix, embed

SHAPES = (inputs.LIDC, inputs.PET_CT)
BUDGETS = {"SSIM": 35, "MI": 35, "HASH": 12, "DeepNet": 12}  # s on a GPU; the rest of a data set is extrapolated
BUDGET_ON_CPU = 8


@pytest.fixture(scope="module")
def compute():
    """A function of the method: what makes a matrix of slices on the GPU."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(weights=None).eval().cuda()
    functions = {
        name: lambda x, name=name: lim_gpu.similarity_matrix(x, name.lower()) for name in ("SSIM", "MI", "HASH")
    }
    return {**functions, "DeepNet": lambda x: cosine_matrix(embed(x, model))}


@pytest.mark.gpu
@pytest.mark.parametrize("data_set", SHAPES, ids=lambda data_set: data_set.name)
@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.budget(s)) for name, s in BUDGETS.items()])
def test_matrices(method, data_set, compute, record):
    record(row_of(method, data_set, "cuda", datasets.run(data_set, "cuda", compute[method], BUDGETS[method])))


@pytest.mark.budget(BUDGET_ON_CPU)
@pytest.mark.parametrize("method", ["SSIM", "MI", "HASH"])
def test_matrices_on_cpu(method, record):
    torch.set_num_threads(os.cpu_count() or 1)
    share = datasets.run(
        inputs.LIDC, "cpu", lambda x: lim_gpu.similarity_matrix(x, method.lower(), device="cpu"), BUDGET_ON_CPU
    )
    record(row_of(method, inputs.LIDC, "cpu", share))


def row_of(method: str, data_set: inputs.DataSet, device: str, share: datasets.Share) -> Row:
    """In slices or pairs, what the time grows with; `n` is the volumes that were run."""
    sizes = data_set.sizes()
    by_slice = method in ("HASH", "DeepNet")
    unit, count, total = (
        ("slice", share.slices, sum(sizes)) if by_slice else ("pair", share.pairs, sum(n * (n - 1) // 2 for n in sizes))
    )
    return Row("datasets", data_set.name, method, device, unit, count, [share.seconds], n=share.volumes, total=total)
