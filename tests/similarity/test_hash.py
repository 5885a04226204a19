"""HASH on the CPU against imagehash, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")
pytest.importorskip("imagehash")

import imagehash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hard_slices import STACKS, odd_sizes
from lim_gpu.similarity.hash import _filter, dhash, dhash_of, hamming_matrix, matrix_of_hashes
from lim_gpu.similarity.lanczos import ACROSS, DOWN, PRECISION, lanczos_weights


def reference(slices):
    return [str(imagehash.dhash(Image.fromarray(pixels))) for pixels in slices]


def as_text(hashes):
    return [f"{value:016x}" for value in hashes]


@pytest.mark.parametrize("name", STACKS)
def test_equals_imagehash(name):
    slices = STACKS[name]()
    assert as_text(dhash(slices)) == reference(slices)


@pytest.mark.parametrize("slices", odd_sizes(), ids=lambda slices: "x".join(map(str, slices.shape[1:])))
def test_any_size_equals_imagehash(slices):
    assert as_text(dhash(slices)) == reference(slices)


@settings(deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=20)))
def test_tiny_slices_equal_imagehash(slices):
    assert as_text(dhash(slices)) == reference(slices)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 63, 64, 100, 512, 1000, 2048, 4096])
@pytest.mark.parametrize("outputs", [ACROSS, DOWN])
def test_weights_are_taken_apart_without_loss_and_sums_have_room(size, outputs):
    weights, first, last = lanczos_weights(size, outputs, PRECISION)
    taken = _filter(size, outputs)
    high, low = taken.high.astype(np.int64), taken.low.astype(np.int64)
    np.testing.assert_array_equal((high << taken.shift) + low, weights)
    assert (taken.first <= first).all()
    assert (last <= taken.last).all()
    assert 255 * np.abs(high).sum(axis=1).max() < 2**31
    assert (low >= 0).all()
    np.testing.assert_array_equal(taken.most, 255 * low.sum(axis=1))
    assert taken.most.max() < 0.1 * 2**PRECISION  # of a grey level


def test_single_bright_and_dark_pixels_equal_imagehash():
    """Sums that lie close to where they are rounded."""
    slices = np.full((60, 512, 300), 128, np.uint8)
    places = np.random.default_rng(3).integers(0, slices[0].size, (60, 2000))
    np.put_along_axis(slices.reshape(60, -1), places, (places % 251).astype(np.uint8), axis=1)
    assert as_text(dhash(slices)) == reference(slices)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_distances_are_counted_bits(values):
    distances = hamming_matrix(np.array(values, np.uint64))
    assert distances.tolist() == [[(a ^ b).bit_count() for b in values] for a in values]


def test_similarity_is_exact():
    hashes = np.array([0, *((1 << k) - 1 for k in range(65))], np.uint64)
    matrix = matrix_of_hashes(hashes)
    assert matrix.dtype == np.float32
    assert matrix[0, 1:].tolist() == [1 - bits / 64 for bits in range(65)]


@pytest.mark.real
def test_real_ct(headneck_grey):
    hashes = dhash(headneck_grey)
    assert as_text(hashes) == reference(headneck_grey)
    whole = [imagehash.hex_to_hash(text) for text in as_text(hashes)]
    assert hamming_matrix(hashes).tolist() == [[a - b for b in whole] for a in whole]


def test_the_plain_reference_of_one_slice_is_what_a_block_gives():
    slices = np.random.default_rng(7).integers(0, 256, (5, 61, 47), dtype=np.uint8)
    assert [dhash_of(image) for image in slices] == dhash(slices).tolist()
