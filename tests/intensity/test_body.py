"""The body in a slice: against SciPy's fill of holes, and what its surroundings become."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lim_gpu.intensity import Intensity
from lim_gpu.intensity.body import SURFACE, body_of, clear_outside
from lim_gpu.phantom import phantom

AIR, TABLE, PADDING = -1000, 120, -3024


def patient(height=60, width=70):
    """HU (H, W): a body with a lung in it, a table below, padding in the corners."""
    row, column = np.mgrid[:height, :width]
    pixels = np.full((height, width), AIR, np.int16)
    body = ((row - 26) / 20) ** 2 + ((column - 35) / 28) ** 2 < 1
    pixels[body] = 40
    pixels[((row - 24) / 9) ** 2 + ((column - 28) / 8) ** 2 < 1] = -850
    pixels[54:57, 5:65] = TABLE
    pixels[:4, :4] = pixels[-3:, -3:] = PADDING
    return pixels, body


def test_the_body_is_the_largest_region_with_its_lungs_and_without_the_table():
    pixels, body = patient()
    np.testing.assert_array_equal(body_of(pixels), body)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_scipy_finds(seed):
    rng = np.random.default_rng(seed)
    pixels = ndimage.gaussian_filter(rng.normal(0, 1, (40, 33)), 1 + seed / 3)
    pixels = (pixels / np.abs(pixels).max() * 900 - 300).astype(np.int16)
    regions, count = ndimage.label(pixels > SURFACE)
    largest = max(range(1, count + 1), key=lambda region: (regions == region).sum())
    np.testing.assert_array_equal(body_of(pixels), ndimage.binary_fill_holes(regions == largest))


@pytest.mark.parametrize(("value", "found"), [(AIR, False), (40, True)])
def test_slices_of_air_or_of_tissue_alone(value, found):
    assert (body_of(np.full((11, 12), value, np.int16)) == found).all()


def test_the_body_alone_takes_the_range_of_grey():
    pixels, body = patient()
    mapped = Intensity(body=True).to_uint8(pixels[None])[0]
    assert set(np.unique(mapped[~body])) == {0}
    assert (mapped[body & (pixels == 40)] == 255).all()
    assert Intensity().to_uint8(pixels[None])[0][30, 10] < 255  # where padding and table have the ends
    assert pixels[0, 0] == PADDING  # what was given stays


@pytest.mark.parametrize("limits", [(-1150.0, 350.0), (-500.5, 100), (-50000, 50000), (40000, 50000)])
def test_surroundings_become_the_lower_limit(limits):
    pixels, body = patient()
    cleared = pixels[None].copy()
    clear_outside(cleared, limits)
    np.testing.assert_array_equal(cleared[0][body], pixels[body])
    mapped = Intensity(limits).to_uint8(cleared)[0]
    assert (mapped[~body] == Intensity(limits).to_uint8(np.full((1, 1, 1), -32768, np.int16))[0, 0, 0]).all()
    np.testing.assert_array_equal(Intensity(limits, body=True).to_uint8(pixels[None])[0], mapped)


def test_a_slice_of_air_becomes_one_grey():
    assert not Intensity(body=True).to_uint8(np.full((1, 12, 13), AIR, np.int16)).any()


def test_it_is_recorded_and_read_again():
    for intensity in (Intensity.parse(body=True), Intensity.parse(window="lung", body=True)):
        assert intensity.describe()["body"] is True
        assert Intensity.described(intensity.describe()) == intensity


def test_of_a_chest_the_table_goes():
    slices = phantom("chest", 5, 96, 96, seed=1)
    masks = np.stack([body_of(pixels) for pixels in slices])
    assert 0.1 < masks.mean() < 0.9
    assert (Intensity(body=True).to_uint8(slices)[~masks] == 0).all()
