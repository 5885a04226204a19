"""The kernels against the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lim_gpu.errors import InputError
from lim_gpu.intensity import WINDOWS, Intensity, definition
from lim_gpu.intensity.cuda import to_uint8

MAPPINGS = [
    Intensity.parse(),
    *(Intensity.parse(window=name) for name in WINDOWS),
    Intensity.parse(window="40,333"),
    Intensity.parse(hu_range="-1000.5:399.25"),
    Intensity.parse(hu_range="-40000:90000"),
]


def compute(engine, slices, mapping):
    return to_uint8(engine.tensor(slices), mapping.limits, module=engine.module("intensity")).cpu().numpy()


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: str(mapping.limits))
def test_equals_the_definition(engine, mapping):
    slices = np.random.default_rng(0).integers(-3024, 3072, (5, 31, 45)).astype(np.int16)
    slices[1] = -1024
    slices[2, 0, :2] = -32768, 32767
    slices[3] = np.arange(31 * 45).reshape(31, 45) - 700  # every value once
    assert (compute(engine, slices, mapping) == definition.to_uint8(slices, mapping.limits)).all()


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
