"""Every barrier of the kernels is needed, and the emulation sees when one is missing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from emulation import EmulatedModule, EmulationError, emulate
from lim_gpu.intensity import Intensity
from lim_gpu.similarity.cuda.intensity import to_uint8
from lim_gpu.similarity.cuda.mi import mi_matrix, mi_matrix_plain
from lim_gpu.similarity.cuda.module import source
from lim_gpu.similarity.cuda.ssim import ssim_matrix, ssim_matrix_plain

pytestmark = pytest.mark.emulated

RANDOM = np.random.default_rng(0)
# of an odd height: a strip ends in the buffer where the next begins
TWO_STRIPS = torch.tensor(RANDOM.integers(0, 256, (3, 15, 530), dtype=np.uint8))
SMALL = torch.tensor(RANDOM.integers(0, 256, (4, 20, 30), dtype=np.uint8))
HU = torch.tensor(RANDOM.integers(-1000, 1000, (2, 40, 50)).astype(np.int16))
RUNS = {
    "ssim": lambda module: (ssim_matrix(TWO_STRIPS, 255, module=module), ssim_matrix_plain(SMALL, 255, module=module)),
    "mi": lambda module: (mi_matrix(SMALL, 200, module=module), mi_matrix_plain(SMALL, 100, module=module)),
    "intensity": lambda module: (to_uint8(HU, Intensity(), module=module),),
}
BARRIER = re.compile(r"__syncthreads\(\);")
OF_BLOCK_SUM = 2  # in common.cuh, seen through mi


def barriers():
    for name in RUNS:
        first = 0 if name == "mi" else OF_BLOCK_SUM
        yield from ((name, k) for k in range(first, len(BARRIER.findall(source(name)))))


@pytest.mark.parametrize(("name", "k"), list(barriers()))
def test_a_missing_barrier_is_seen(name, k):
    found = list(BARRIER.finditer(source(name)))[k]
    without = source(name)[: found.start()] + source(name)[found.end() :]
    right = RUNS[name](emulate(name))
    try:
        wrong = RUNS[name](EmulatedModule(name, 0, without))
    except EmulationError:
        return
    assert not all(torch.equal(a, b) for a, b in zip(right, wrong, strict=True))


def test_there_are_barriers():
    assert len(list(barriers())) >= 9
