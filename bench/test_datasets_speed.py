"""Data sets shaped like the paper's, volume after volume on the GPU, against the hours that the paper took."""

from __future__ import annotations

import pytest

import lim_gpu
from bench import datasets, inputs
from bench.parts import Row
from lim_gpu.similarity.deepnet import cosine_matrix, embed

pytestmark = pytest.mark.gpu
SHAPES = (inputs.LIDC, inputs.PET_CT)
BUDGETS = {"SSIM": 35, "MI": 35, "HASH": 12, "DeepNet": 12}  # s; the rest of a data set is extrapolated


@pytest.fixture(scope="module")
def compute():
    """A function of the method: what makes a matrix of slices on the GPU."""
    import torch
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(weights=None).eval().cuda()
    functions = {
        name: lambda x, name=name: lim_gpu.similarity_matrix(x, name.lower()) for name in ("SSIM", "MI", "HASH")
    }
    return {**functions, "DeepNet": lambda x: cosine_matrix(embed(x, model))}


@pytest.mark.parametrize("data_set", SHAPES, ids=lambda data_set: data_set.name)
@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.budget(s)) for name, s in BUDGETS.items()])
def test_matrices(method, data_set, compute, record):
    share = datasets.run(data_set, "cuda", compute[method], BUDGETS[method])
    sizes = data_set.sizes()
    by_slice = method in ("HASH", "DeepNet")  # what the time grows with
    record(
        Row(
            "datasets", data_set.name, method, "cuda", "slice" if by_slice else "pair",
            share.slices if by_slice else share.pairs, [share.seconds], n=share.volumes,
            total=sum(sizes) if by_slice else sum(n * (n - 1) // 2 for n in sizes),
        )
    )  # fmt: skip
