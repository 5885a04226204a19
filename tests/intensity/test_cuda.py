"""The kernels against the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lim_gpu.errors import InputError
from lim_gpu.intensity import WINDOWS, Intensity, definition
from lim_gpu.intensity.cuda import to_uint8, to_uint8_summed
from lim_gpu.store.fletcher import of_slices, reduced
from volumes import stored_checksums

MAPPINGS = [
    Intensity.parse(),
    *(Intensity.parse(window=name) for name in WINDOWS),
    Intensity.parse(window="40,333"),
    Intensity.parse(hu_range="-1000.5:399.25"),
    Intensity.parse(hu_range="-40000:90000"),
]


def compute(engine, slices, mapping):
    return to_uint8(engine.tensor(slices), mapping.limits, module=engine.module("intensity")).cpu().numpy()


def compute_summed(engine, slices, mapping=MAPPINGS[0]):
    results = to_uint8_summed(engine.tensor(slices), mapping.limits, module=engine.module("intensity"))
    mapped, sums = (result.cpu().numpy() for result in results)
    return mapped, sums.view(np.uint32)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: str(mapping.limits))
def test_equals_the_definition(engine, mapping):
    slices = np.random.default_rng(0).integers(-3024, 3072, (5, 31, 45)).astype(np.int16)
    slices[1] = -1024
    slices[2, 0, :2] = -32768, 32767
    slices[3] = np.arange(31 * 45).reshape(31, 45) - 700  # every value once
    assert (compute(engine, slices, mapping) == definition.to_uint8(slices, mapping.limits)).all()
    mapped, sums = compute_summed(engine, slices, mapping)
    assert (mapped == definition.to_uint8(slices, mapping.limits)).all()
    assert (sums == of_slices(slices)).all()


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 2), (2, 7, 9), (3, 33, 31), (2, 64, 48), (1, 45, 91)], ids=str)
def test_checksums_are_those_of_hdf5(engine, shape, dtype):
    """Also of an odd number of bytes, of fewer pixels than threads, and of bits that are all equal."""
    random = np.frombuffer(np.random.default_rng(2).bytes(2 * np.prod(shape)), dtype)[: np.prod(shape)].reshape(shape)
    for slices in (random, np.zeros(shape, dtype), np.full(shape, -1).astype(dtype)):
        mapped, sums = compute_summed(engine, slices)
        assert (mapped == (slices if dtype == "uint8" else definition.to_uint8(slices, None))).all()
        assert (sums == of_slices(slices)).all()
        assert (sums == reduced(stored_checksums(slices))).all()


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_the_sums_of_the_largest_slice_do_not_overflow(engine, dtype):
    slices = np.full((1, 4096, 4096), -1).astype(dtype)
    slices[0, -1, -1] = 7
    mapped, sums = compute_summed(engine, slices)
    assert sums == of_slices(slices)
    if dtype == "int16":
        assert mapped[0, -1, -1] == 255 == mapped.sum(dtype=np.int64)


@pytest.mark.parametrize("width", [1, 2, 3, 255, 510, 4096])
def test_halves_round_to_even(engine, width):
    slices = np.arange(-width, 2 * width, dtype=np.int16).reshape(1, 3, width)
    assert (compute(engine, slices, Intensity((0, width))) == definition.to_uint8(slices, (0, width))).all()


def test_uint8_stays_and_other_types_are_refused(engine):
    grey = engine.tensor(np.zeros((1, 2, 2), np.uint8))
    assert Intensity().to_uint8(grey) is grey
    with pytest.raises(InputError, match="^slices of float32 have no HU"):
        Intensity().to_uint8(grey.float())


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (33, 1, 3)], ids=str)
def test_any_number(engine, shape):
    slices = np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)
    assert (compute(engine, slices, Intensity()) == definition.to_uint8(slices, None)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: str(mapping.limits))
def test_the_one_call_takes_the_kernel_where_the_slices_lie_on_a_gpu(mapping):
    slices = np.random.default_rng(0).integers(-3024, 3072, (3, 511, 513)).astype(np.int16)
    mapped = mapping.to_uint8(torch.tensor(slices, device="cuda"))
    assert mapped.is_cuda
    assert (mapped.cpu().numpy() == definition.to_uint8(slices, mapping.limits)).all()
