"""fletcher32 of a slice as HDF5 itself writes it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from lim_gpu.store.checksum import stored
from lim_gpu.store.fletcher import of_slices, reduced


def by_hdf5(pixels):
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=pixels[None], chunks=(1, *pixels.shape), fletcher32=True)
        return dataset.id.read_direct_chunk((0, 0, 0))[1][-4:]


SIZES = [(1, 1), (1, 3), (7, 5), (32, 64), (33, 31), (64, 64), (200, 113)]


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("value", ["random", 0, -1, 1])
def test_it_is_what_hdf5_writes(size, dtype, value):
    pixels = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, size) if value == "random" else np.full(size, value)
    pixels = pixels.astype(dtype)
    assert stored(pixels) == by_hdf5(pixels)


@given(st.lists(st.sampled_from([0, 1, 0xFF, 0xFE, 0x80]), min_size=1, max_size=40))
@settings(max_examples=60)
def test_it_is_so_for_sums_that_vanish(values):
    """65,535 and 0 are equal modulo 65,535, and HDF5 tells them apart."""
    pixels = np.array([values], np.uint8)
    assert stored(pixels) == by_hdf5(pixels)


def test_the_largest_slice_does_not_overflow():
    pixels = np.full((4096, 4096), -1, np.int16)
    pixels[::2] = 0x7FFF
    expected = reduced(of_slices(pixels[None]))
    np.testing.assert_array_equal(reduced(np.frombuffer(stored(pixels), "<u4")), expected)
