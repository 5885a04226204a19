"""HU to 0..255 by the kernels against NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.intensity import WINDOWS, Intensity
from lim_gpu.similarity.cuda.intensity import to_uint8

MAPPINGS = [
    Intensity.parse(),
    *(Intensity.parse(window=name) for name in WINDOWS),
    Intensity.parse(window="40,333"),
    Intensity.parse(hu_range="-1000.5:399.25"),
    Intensity.parse(hu_range="-40000:90000"),
]


def compute(engine, slices, mapping):
    return to_uint8(engine.tensor(slices), mapping, module=engine.module("intensity")).cpu().numpy()


def numpy_formula(slices, low, high):
    """The definition, apart from the package: float64 at every pixel."""
    values = np.clip(slices.astype(np.float64), low, high)
    return np.rint((values - low) / (high - low) * 255).astype(np.uint8)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: str(mapping.limits))
def test_equals_numpy(engine, mapping):
    slices = np.random.default_rng(0).integers(-3024, 3072, (5, 31, 45)).astype(np.int16)
    slices[1] = -1024
    slices[2, 0, :2] = -32768, 32767
    slices[3] = np.arange(31 * 45).reshape(31, 45) - 700  # every value once
    mapped = compute(engine, slices, mapping)
    for pixels, result in zip(slices, mapped, strict=True):
        low, high = mapping.limits or (int(pixels.min()), int(pixels.max()))
        assert (result == (numpy_formula(pixels, low, high) if low < high else 0)).all()
    assert (mapped == mapping.to_uint8(slices)).all()


@pytest.mark.parametrize("width", [1, 2, 3, 255, 510, 4096])
def test_halves_round_to_even(engine, width):
    slices = np.arange(-width, 2 * width, dtype=np.int16).reshape(1, 3, width)
    assert (compute(engine, slices, Intensity((0, width))) == numpy_formula(slices, 0, width)).all()


def test_uint8_stays_and_other_types_are_refused(engine):
    grey = engine.tensor(np.zeros((1, 2, 2), np.uint8))
    assert to_uint8(grey, Intensity()) is grey
    with pytest.raises(InputError, match="float32 have no HU"):
        to_uint8(grey.float(), Intensity())


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (33, 1, 3)], ids=str)
def test_any_number(engine, shape):
    slices = np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)
    assert (compute(engine, slices, Intensity()) == Intensity().to_uint8(slices)).all()
