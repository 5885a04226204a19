"""Blocks of slices: every pair once, within the memory, going on after out of memory, with the same matrix."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from emulation import emulate
from lim_gpu.cuda import blocks
from lim_gpu.cuda.blocks import block_size, over_pairs, square_matrix
from lim_gpu.cuda.module import Module
from lim_gpu.errors import LimGpuError
from lim_gpu.similarity.cuda.mi import mi_matrix
from lim_gpu.similarity.cuda.ssim import VERSIONS, ssim_matrix

SLICES = torch.tensor(np.random.default_rng(0).integers(0, 256, (9, 12, 17), dtype=np.uint8))
METHODS = {
    "ssim": lambda **options: ssim_matrix(SLICES, 255, module=emulate("ssim"), **options),
    "tensor": lambda **options: ssim_matrix(SLICES, 255, module=emulate("ssim"), version="tensor_4x16", **options),
    "mi": lambda **options: mi_matrix(SLICES, 100, module=emulate("mi"), **options),
}


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has less")


@given(st.integers(0, 40), st.integers(1, 45), st.lists(st.integers(1, 60), max_size=4))
def test_every_pair_once_whatever_fails(n, block, failures):
    calls, pairs = 0, []

    def prepare(first, last):
        nonlocal calls
        calls += 1
        assert last - first <= block
        if calls in failures:
            out_of_memory()
        return range(first, last)

    def compare(x, y):
        assert (x.first, y.first) == (x.content[0], y.content[0])
        pairs.extend((i, j) for i in x.content for j in y.content if i < j)

    try:
        over_pairs(n, block, prepare, compare)
    except LimGpuError:
        assert len(failures) > 0
        return
    assert sorted(pairs) == [(i, j) for i in range(n) for j in range(i + 1, n)]


class Content:
    """Counts how many of it are held."""

    live = most = 0

    def __init__(self):
        Content.live += 1
        Content.most = max(Content.most, Content.live)

    def __del__(self):
        Content.live -= 1


@pytest.mark.parametrize("failing", [(), (2,), (1, 5, 9)])
def test_a_block_is_freed_before_the_next_is_made(failing):
    Content.live = Content.most = calls = 0

    def prepare(*_):
        nonlocal calls
        calls += 1
        content = Content()
        return out_of_memory() if calls in failing else content

    over_pairs(40, 10, prepare, lambda *_: None)
    assert Content.most == 2
    assert calls > max(failing, default=3)


@pytest.mark.emulated
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [1, 10_000, 40_000])
def test_blocks_give_the_same_matrix(method, budget):
    assert torch.equal(METHODS[method](budget=budget), METHODS[method]())


@pytest.mark.emulated
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failing", [{1}, {2}, {3}, {1, 2}, {1, 9}, {4, 5}])
def test_out_of_memory_halves_the_blocks_and_goes_on(monkeypatch, method, failing):
    budget = {"ssim": 80_000, "tensor": 24_000, "mi": 3300}[method]  # four slices in a block
    expected = METHODS[method](budget=budget)
    allocate, count = torch.empty, 0

    def empty(*sizes, **options):
        nonlocal count
        count += 1
        return out_of_memory() if count in failing else allocate(*sizes, **options)

    monkeypatch.setattr(torch, "empty", empty)
    assert torch.equal(METHODS[method](budget=budget), expected)
    assert count > max(failing)


@pytest.mark.emulated
@pytest.mark.parametrize("method", METHODS)
def test_never_enough_memory_is_one_line(monkeypatch, method):
    monkeypatch.setattr(torch, "empty", out_of_memory)
    with pytest.raises(
        LimGpuError, match=r"^out of memory for two slices \(CUDA out of memory\)\. Free memory .* cpu$"
    ):
        METHODS[method]()


def test_a_matrix_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(torch, "full", out_of_memory)
    with pytest.raises(LimGpuError, match="a matrix of 50000 x 50000 does not fit"):
        square_matrix(50_000, 1, torch.device("cpu"))


def test_block_sizes():
    assert block_size(100, 10, 1000) == 100
    assert block_size(101, 10, 1000) == 50
    assert block_size(101, 10, 5) == 1
    assert block_size(10**6, 1, 10**9) == blocks.MOST_SLICES


def test_memory_for_blocks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    assert blocks.memory_for_blocks(torch.device("cuda")) == int(0.8 * (4 << 30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (130 << 30, 140 << 30))
    assert blocks.memory_for_blocks(torch.device("cuda")) == blocks.MOST


class Nowhere(Module):
    """Runs nothing, on tensors without memory, and notes which pairs it was asked for."""

    device_type = "meta"
    pairs = 0

    def _run(self, signature, device, grid, block, shared, values):
        if signature.kernel.startswith("ssim_pairs"):
            names = [parameter.name for parameter in signature.parameters]
            a, b, x, y = (int(values[names.index(name)]) for name in ("a", "b", "x_first", "y_first"))
            self.pairs += a * (a - 1) // 2 if x == y else a * b


@pytest.mark.parametrize("version", VERSIONS)
def test_5000_slices_need_less_than_8_gib(monkeypatch, version):
    module = Nowhere("ssim")
    slices = torch.empty((5000, 512, 512), dtype=torch.uint8, device="meta")
    live = peak = slices.numel()
    allocators = {name: getattr(torch, name) for name in ("empty", "full", "zeros")}

    def allocate(name, *arguments, **options):
        nonlocal live, peak
        tensor = allocators[name](*arguments, **options)
        size = tensor.numel() * tensor.element_size()
        live += size
        peak = max(peak, live)
        weakref.finalize(tensor, free, size)
        return tensor

    def free(size):
        nonlocal live
        live -= size

    monkeypatch.setattr(torch, "empty", lambda *a, **o: allocate("empty", *a, **o))
    monkeypatch.setattr(torch, "full", lambda *a, **o: allocate("full", *a, **o))
    monkeypatch.setattr(torch, "zeros", lambda *a, **o: allocate("zeros", *a, **o))
    ssim_matrix(slices, 255, module=module, version=version)
    assert module.pairs == 5000 * 4999 // 2
    assert 4 << 30 < peak < 7 << 30


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["ssim", "mi"])
def test_blocks_on_the_gpu_from_host_memory(method):
    slices = torch.tensor(np.random.default_rng(3).integers(0, 256, (70, 60, 77), dtype=np.uint8))
    device = torch.device("cuda", 0)
    compute = {
        "ssim": lambda x, **options: ssim_matrix(x, 255, **options),
        "mi": lambda x, **options: mi_matrix(x, 100, **options),
    }[method]
    expected = compute(slices.to(device))
    assert torch.equal(compute(slices, device=device, budget=500_000), expected)
