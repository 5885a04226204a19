"""The compiled mapping against the definition, bit for bit, and when it is taken."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from lim_gpu.intensity import Intensity, compiled, definition

MAPPINGS = ({}, {"window": "lung"}, {"window": "40,0.5"}, {"hu_range": "-1000:400.25"}, {"hu_range": "-40000:70000"})


def hard_slices():
    rng = np.random.default_rng(0)
    every = np.arange(-32768, 32768).astype(np.int16).reshape(1, 256, 256)
    random = rng.integers(-1024, 3072, (5, 33, 47)).astype(np.int16)
    random[2] = -1024
    yield from (every, random, np.full((2, 3, 5), -7, np.int16), np.zeros((0, 4, 4), np.int16))
    yield from (random[::-2, 1:, ::3], random.transpose(0, 2, 1), np.zeros((1, 1, 1), np.int16))
    yield from (rng.integers(low, low + span, (1, 64, 61)).astype(np.int16) for low in (-3024, 0) for span in (2, 511))


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_the_same_bits(mapping):
    limits = Intensity.parse(**mapping).limits
    for slices in hard_slices():
        found, expected = compiled.to_uint8(slices, limits), definition.to_uint8(slices, limits)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype == np.uint8


def test_slices_that_cannot_be_written():
    slices = next(hard_slices())
    slices.flags.writeable = False
    np.testing.assert_array_equal(compiled.to_uint8(slices, None), definition.to_uint8(slices, None))


def test_torch_on_the_cpu():
    for slices in hard_slices():
        mapped = Intensity().to_uint8(torch.tensor(np.ascontiguousarray(slices)))
        np.testing.assert_array_equal(mapped.numpy(), definition.to_uint8(slices, None))


def test_numba_starts_when_numpy_has_lost_as_much_time():
    program = """
import sys
import numpy as np
from lim_gpu.intensity import Intensity, mapping
mapping.START = 1000
hu = np.arange(-200, 200, dtype=np.int16).reshape(1, 20, 20)
for place in range(4):
    mapped = Intensity().to_uint8(hu)
    print(place, mapped.sum(), "numba" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    total = definition.to_uint8(np.arange(-200, 200, dtype=np.int16).reshape(1, 20, 20), None).sum()
    assert result.stdout == "".join(f"{place} {total} {place == 3}\n" for place in range(4))
