"""HU to 0..255: the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import WINDOWS, Intensity, definition

volumes = arrays(np.int16, array_shapes(min_dims=3, max_dims=3, max_side=7))


def plain(slices, low=None, high=None):
    """Design: v float64; clip to fixed limits; (v - low) / (high - low) * 255, half to even."""
    mapped = []
    for pixels in slices.astype(np.float64):
        lo, hi = (pixels.min(), pixels.max()) if low is None else (low, high)
        flat = lo == hi
        mapped.append(np.zeros(pixels.shape) if flat else np.rint((np.clip(pixels, lo, hi) - lo) / (hi - lo) * 255))
    return np.array(mapped).astype(np.uint8)


@given(volumes)
def test_slice_minmax_equals_the_plain_formula(slices):
    np.testing.assert_array_equal(definition.to_uint8(slices, None), plain(slices))


@given(volumes, st.integers(-2000, 3000), st.integers(1, 5000))
def test_window_equals_the_plain_formula(slices, level, width):
    limits = Intensity.parse(window=f"{level},{width}").limits
    np.testing.assert_array_equal(
        definition.to_uint8(slices, limits), plain(slices, level - width / 2, level + width / 2)
    )


@pytest.mark.parametrize("name", WINDOWS)
def test_presets(name):
    level, width = WINDOWS[name]
    slices = np.arange(-1200, 1600, dtype=np.int16).reshape(1, 40, 70)
    expected = plain(slices, level - width / 2, level + width / 2)
    np.testing.assert_array_equal(Intensity.parse(window=name).to_uint8(slices), expected)
    assert {0, 255} <= set(expected.ravel().tolist())


def test_hu_range_keeps_its_ends():
    mapping = Intensity.parse(hu_range="-1000:400")
    assert mapping.limits == (-1000, 400)
    slices = np.array([[[-3024, -1000, -300, 400, 3071]]], np.int16)
    assert mapping.to_uint8(slices).tolist() == [[[0, 0, 128, 255, 255]]]  # 127.5 rounds half to even


def test_extremes_and_constant_slices():
    slices = np.array([[[-32768, 32767]], [[5, 5]]], np.int16)
    assert Intensity.parse().to_uint8(slices).tolist() == [[[0, 255]], [[0, 0]]]


def test_grey_values_stay_and_other_types_are_refused():
    grey = np.zeros((1, 2, 2), np.uint8)
    assert Intensity.parse(window="lung").to_uint8(grey) is grey
    with pytest.raises(InputError, match="float64"):
        Intensity.parse().to_uint8(grey.astype(float))


@pytest.mark.parametrize(
    "options",
    [
        {"intensity": "volume"},
        {"window": "elbow"},
        {"window": "40"},
        {"window": "40,400,3"},
        {"window": "40,0"},
        {"window": "40,-5"},
        {"window": "nan,40"},
        {"hu_range": "400"},
        {"hu_range": "400:400"},
        {"hu_range": "400:-100"},
        {"window": "lung", "hu_range": "0:100"},
    ],
)
def test_nonsense_is_refused(options):
    with pytest.raises(UsageError):
        Intensity.parse(**options)


def test_descriptions_tell_mappings_apart():
    described = [str(Intensity.parse(window=name).describe()) for name in WINDOWS] + [str(Intensity.parse().describe())]
    assert len(set(described)) == len(described)


@pytest.mark.parametrize("name", ["slice-minmax", "lung", "LUNG", "40,400", "-1000:400"])
def test_a_name_is_an_intensity_and_its_record_too(name):
    found = Intensity.of(name)
    assert Intensity.described(found.describe()) == found == Intensity.of(found)
    assert (found.limits is None) == (name == "slice-minmax")


def test_a_range_the_wrong_way_names_itself():
    with pytest.raises(UsageError, match="`hu_range` 400:-1000 shows nothing: 400 is not below -1000"):
        Intensity.parse(hu_range="400:-1000")
    with pytest.raises(InputError, match="volume-magic"):
        Intensity.described({"mapping": "volume-magic"})
