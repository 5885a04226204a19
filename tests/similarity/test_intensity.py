"""The compiled mapping of HU against its definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity
from lim_gpu.similarity.intensity import to_uint8

MAPPINGS = ({}, {"window": "lung"}, {"window": "40,0.5"}, {"hu_range": "-1000:400.25"}, {"hu_range": "-40000:70000"})


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_the_same_bits(mapping):
    rng = np.random.default_rng(0)
    intensity = Intensity.parse(**mapping)
    every = np.arange(-32768, 32768).astype(np.int16).reshape(1, 256, 256)
    slices = [every, rng.integers(-1024, 3072, (5, 33, 47)).astype(np.int16), np.full((2, 3, 5), -7, np.int16)]
    slices += [
        rng.integers(low, low + span, (1, 64, 64)).astype(np.int16) for low in (-3024, 0) for span in (2, 3, 511)
    ]
    for part in slices:
        np.testing.assert_array_equal(to_uint8(part, intensity), intensity.to_uint8(part))


def test_other_types_as_the_definition():
    grey = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert to_uint8(grey, Intensity.parse()) is grey
    with pytest.raises(InputError, match="int16"):
        to_uint8(grey.astype(np.float32), Intensity.parse())
