"""Percentiles of a volume by counting, against NumPy's, and the intensity that goes by them."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from lim_gpu.errors import UsageError
from lim_gpu.intensity import PERCENTILES, Intensity
from lim_gpu.intensity.percentiles import percentiles_of
from lim_gpu.store.volume import Volume
from volumes import pixels, write_volume

BY_VOLUME = Intensity.parse("volume-percentile")


@given(
    st.lists(st.integers(-32768, 32767), min_size=1, max_size=300),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(1, 7),
)
def test_percentiles_are_those_of_numpy(values, one, other, pieces):
    low, high = sorted((one, other))
    array = np.array(values, np.int16)
    expected = np.percentile(array.astype(np.float64), [low, high])
    found = percentiles_of(np.array_split(array, pieces), low, high)
    if expected[0] < expected[1]:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    else:
        assert found == ((array.min(), array.max()) if np.ptp(array.astype(int)) else None)


def test_a_volume_of_mostly_one_value_goes_by_its_minimum_and_maximum():
    slices = np.zeros((3, 40, 50), np.int16)
    slices[1, 2, 3], slices[2, 4, 5] = 700, -90
    assert percentiles_of(slices, *PERCENTILES) == (-90, 700)


def test_the_slices_of_a_volume_share_its_limits(tmp_path, monkeypatch):
    values = pixels(5, 20, 24)
    values[2] //= 4
    entry = write_volume(tmp_path, values)
    with Volume(tmp_path / f"{entry.key}.h5", entry) as volume:
        intensity = BY_VOLUME.of_volume(volume)
        low, high = np.percentile(values.astype(np.float64), PERCENTILES)
        scaled = np.rint((values.astype(np.float64).clip(low, high) - low) / (high - low) * 255)
        np.testing.assert_array_equal(intensity.to_uint8(values), scaled.astype(np.uint8))
        monkeypatch.setattr(Volume, "read_slice", None)  # read once
        assert BY_VOLUME.of_volume(volume) == intensity


def test_threads_and_pickled_volumes_read_it_once_each(tmp_path, monkeypatch):
    entry = write_volume(tmp_path, pixels(6, 20, 24))
    volume, read, seen = Volume(tmp_path / f"{entry.key}.h5", entry), Volume.read_slice, []
    monkeypatch.setattr(Volume, "read_slice", lambda self, i: (seen.append(i), read(self, i))[1])
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: BY_VOLUME.of_volume(volume), range(8)))
    assert len(found) == 1
    assert seen == list(range(6))
    assert BY_VOLUME.of_volume(pickle.loads(pickle.dumps(volume))) in found
    assert len(seen) == 6
    volume.close()


def test_grey_values_and_constant_volumes(tmp_path):
    for values in (pixels(2, 11, 9, dtype="uint8"), np.full((2, 5, 6), 7, np.int16)):
        entry = write_volume(tmp_path, values)
        with Volume(tmp_path / f"{entry.key}.h5", entry) as volume:
            mapped = BY_VOLUME.of_volume(volume).to_uint8(values)
        np.testing.assert_array_equal(mapped, values if values.dtype == np.uint8 else 0 * values)


def test_it_is_told_recorded_and_read_again():
    assert Intensity.of("volume-percentile") == BY_VOLUME
    record = BY_VOLUME.describe()
    assert record == {"mapping": "volume-percentile", "percentiles": [0.5, 99.5]}
    assert Intensity.described(record) == BY_VOLUME


@pytest.mark.parametrize("also", [{"window": "lung"}, {"hu_range": "0:10"}])
def test_it_takes_no_limits_beside(also):
    with pytest.raises(UsageError, match="takes no `window` and no `hu_range`"):
        Intensity.parse("volume-percentile", **also)


def test_without_a_volume_it_maps_nothing():
    with pytest.raises(UsageError, match="needs the volume of the slices"):
        BY_VOLUME.to_uint8(pixels(2, 5, 5))
