"""Normalized mutual information on the CPU against NumPy's histograms and scikit-image."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from skimage.metrics import normalized_mutual_information

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hard_slices import STACKS, as_float, odd_sizes
from lim_gpu.errors import UsageError
from lim_gpu.similarity.mi import bin_numbers, mi_matrix, mi_pair

TOLERANCE = 1e-6  # the contract; float32 alone rounds 1..2 by 6e-8


def reference(x, y, bins):
    """scikit-image's value, and 2 where it divides 0 by 0: both slices are constant."""
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return 2.0
    return normalized_mutual_information(x, y, bins=bins)


def reference_matrix(slices, bins):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.array([[reference(x, y, bins) for y in slices] for x in slices])


@pytest.mark.parametrize("bins", [2, 7, 100, 256])
@pytest.mark.parametrize("name", STACKS)
def test_equals_scikit_image(name, bins):
    slices = STACKS[name]()[:7]
    expected = reference_matrix(slices, bins)
    assert np.abs(mi_matrix(slices, bins) - expected).max() < TOLERANCE
    assert mi_pair(slices[0], slices[1], bins) == pytest.approx(expected[0, 1], abs=1e-12)


@pytest.mark.parametrize("name", STACKS)
def test_floats_equal_scikit_image(name):
    slices = as_float(STACKS[name]())[:7]
    assert np.abs(mi_matrix(slices) - reference_matrix(slices, 100)).max() < TOLERANCE


@pytest.mark.parametrize("slices", odd_sizes(), ids=lambda slices: "x".join(map(str, slices.shape[1:])))
def test_any_size(slices):
    assert np.abs(mi_matrix(slices) - reference_matrix(slices, 100)).max() < TOLERANCE


def test_one_pixel():
    assert mi_matrix(np.array([[[3]], [[7]]], np.uint8)).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("bins", [2, 3, 99, 100, 255, 256])
@pytest.mark.parametrize("convert", [lambda s: s, as_float], ids=["uint8", "float32"])
@pytest.mark.parametrize("name", STACKS)
def test_joint_counts_equal_numpy(name, convert, bins):
    slices = convert(STACKS[name]())
    numbers = bin_numbers(slices, bins).astype(int)
    for i, j in ((0, 1), (1, 2), (3, 0)):
        counts, _ = np.histogramdd([slices[i].ravel(), slices[j].ravel()], bins=bins)
        ours = np.bincount((numbers[i] * bins + numbers[j]).ravel(), minlength=bins**2)
        np.testing.assert_array_equal(ours.reshape(bins, bins), counts)


def test_constant_slices():
    slices = np.stack([np.zeros((20, 20)), np.full((20, 20), 9), np.arange(400).reshape(20, 20) % 256]).astype(np.uint8)
    assert mi_matrix(slices).tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 2]]


@settings(deadline=None, max_examples=25)
@given(arrays(np.uint8, (6, 9, 11), elements=st.integers(0, 5)), st.permutations(range(6)), st.integers(2, 256))
def test_permuting_slices_permutes_the_matrix_bit_for_bit(slices, order, bins):
    matrix = mi_matrix(slices, bins)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 2)
    assert matrix.min() >= 1
    assert matrix.max() <= 2
    np.testing.assert_array_equal(mi_matrix(slices[order], bins), matrix[np.ix_(order, order)])


def test_the_bits_depend_on_the_two_slices_alone():
    slices = np.random.default_rng(3).integers(0, 9, (29, 30, 31), dtype=np.uint8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mi_matrix(slices)
        torch.set_num_threads(5)
        np.testing.assert_array_equal(mi_matrix(slices), alone)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(mi_matrix(slices[4:11]), alone[4:11, 4:11])


@pytest.mark.parametrize("bins", [-1, 0, 1, 257])
def test_bins_out_of_range_are_refused(bins):
    with pytest.raises(UsageError, match=str(bins)):
        mi_matrix(np.zeros((2, 4, 4), np.uint8), bins)


@pytest.mark.real
def test_real_ct(headneck_grey):
    slices = headneck_grey[::15]
    assert np.abs(mi_matrix(slices) - reference_matrix(slices, 100)).max() < TOLERANCE
