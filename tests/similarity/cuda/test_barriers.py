"""Every barrier of the kernels is needed, and the emulation sees when one is missing."""

from __future__ import annotations

import re
from unittest.mock import patch

import numpy as np
import pytest
import torch

from emulation import EmulatedModule, EmulationError, emulate
from lim_gpu.cuda.module import source
from lim_gpu.intensity.cuda import to_uint8
from lim_gpu.pruning import cuda as prune
from lim_gpu.pruning import hashes as hash_rules
from lim_gpu.similarity.cuda.hash import Search
from lim_gpu.similarity.cuda.mi import mi_matrix, mi_matrix_plain
from lim_gpu.similarity.cuda.ssim import ssim_matrix, ssim_matrix_plain

pytestmark = pytest.mark.emulated

RANDOM = np.random.default_rng(0)
# of an odd height: a strip ends in the buffer where the next begins
TWO_STRIPS = torch.tensor(RANDOM.integers(0, 256, (3, 15, 530), dtype=np.uint8))
SMALL = torch.tensor(RANDOM.integers(0, 256, (4, 20, 30), dtype=np.uint8))
HU = torch.tensor(RANDOM.integers(-1000, 1000, (2, 40, 50)).astype(np.int16))
SIMILARITIES = torch.tensor(RANDOM.choice(np.float32([0, 0.25, 0.5, 0.75]), (150, 150)))
HASHES = torch.tensor(RANDOM.integers(0, 64, 1300))


def pruned(module):
    fast, plain = prune.rank(SIMILARITIES, module=module), prune.rank(SIMILARITIES[:70, :70], plain=True, module=module)
    kept = prune.leader(SIMILARITIES, 0.75, module=module)
    return tuple(torch.from_numpy(values) for values in (*fast, *plain, kept))


def swept(module):
    search, everyone = Search(module), torch.arange(len(HASHES))
    remover = torch.full((len(HASHES),), hash_rules.NOBODY, dtype=torch.int32)
    search.sweep(HASHES, everyone.int(), remover, 1)
    with patch("lim_gpu.similarity.cuda.hash.ENOUGH_BLOCKS", 1):  # several tiles in a block
        found = search.nearest(HASHES[:300], HASHES, torch.full((300,), 1250))
    return (remover, *found)


RUNS = {
    "ssim": lambda module: (
        ssim_matrix(TWO_STRIPS, 255, module=module, version="pairs"),
        ssim_matrix(SMALL, 255, module=module, version="tensor"),
        ssim_matrix_plain(SMALL, 255, module=module),
    ),
    "mi": lambda module: (mi_matrix(SMALL, 200, module=module), mi_matrix_plain(SMALL, 100, module=module)),
    "intensity": lambda module: (to_uint8(HU, None, module=module),),
    "prune": pruned,
    "hash": swept,
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
