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
from lim_gpu.similarity.hash import dhash, dhash_of, hamming_matrix, matrix_of_hashes


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
