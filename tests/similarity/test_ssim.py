"""SSIM on the CPU against scikit-image in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hard_slices import STACKS, as_float, odd_sizes
from lim_gpu.errors import InputError
from lim_gpu.similarity.ssim import ssim_matrix, ssim_pair

TOLERANCE = 1e-5  # the contract
# Only differences are filtered, so their errors are as small as they; then the formula of a window takes 16 roundings,
# fused or not, of 2^-24 of numbers near 1. (The largest error seen is 5e-7.)
ROUNDINGS = 16 * 2.0**-24


def reference(x, y, data_range):
    return structural_similarity(
        x.astype(np.float64),
        y.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )


def reference_matrix(slices, data_range):
    return np.array([[reference(x, y, data_range) for y in slices] for x in slices])


@pytest.mark.parametrize("name", STACKS)
def test_equals_scikit_image(name):
    slices = STACKS[name]()
    expected = reference_matrix(slices, 255)
    assert np.abs(ssim_matrix(slices, 255) - expected).max() < ROUNDINGS
    assert np.ptp(expected[np.triu_indices(len(slices), 1)]) > 0.01, "these pairs are too alike to prove anything"


@pytest.mark.parametrize("name", STACKS)
def test_floats_equal_scikit_image(name):
    slices = as_float(STACKS[name]())
    assert np.abs(ssim_matrix(slices, 1) - reference_matrix(slices, 1)).max() < ROUNDINGS


@pytest.mark.parametrize("slices", odd_sizes(), ids=lambda slices: "x".join(map(str, slices.shape[1:])))
def test_any_size_from_11(slices):
    assert np.abs(ssim_matrix(slices, 255) - reference_matrix(slices, 255)).max() < ROUNDINGS


@pytest.mark.parametrize(("scale", "offset"), [(1e-30, 0), (1e-4, 0), (1.0, 40), (3000.0, -1024), (1e30, 0)])
def test_any_data_range(scale, offset):
    unit = np.random.default_rng(1).random((3, 30, 41))
    slices = (unit * scale + offset).astype(np.float32)
    assert np.abs(ssim_matrix(slices, scale) - reference_matrix(slices, scale)).max() < TOLERANCE


def test_values_far_from_zero():
    slices = (1000 + 8 * np.random.default_rng(4).standard_normal((3, 40, 56))).astype(np.float32)
    assert np.abs(ssim_matrix(slices, 40) - reference_matrix(slices, 40)).max() < ROUNDINGS


def test_tiny_differences_on_a_bright_ground():
    slices = (1 + 1e-3 * np.random.default_rng(2).standard_normal((4, 48, 48))).astype(np.float32)
    assert np.abs(ssim_matrix(slices, 1) - reference_matrix(slices, 1)).max() < ROUNDINGS


@pytest.mark.parametrize("name", STACKS)
def test_pair_is_exact(name):
    slices = STACKS[name]()
    for x, y in pairwise(slices):
        assert ssim_pair(x, y, 255) == pytest.approx(reference(x, y, 255), abs=1e-12)


def test_identical_slices_are_exactly_one():
    slices = np.concatenate([STACKS["saturated"](), STACKS["saturated"]()])
    n = len(slices) // 2
    np.testing.assert_array_equal(np.diag(ssim_matrix(slices, 255)[:n, n:]), 1)


@settings(deadline=None, max_examples=20)
@given(arrays(np.uint8, (5, 12, 19)), st.permutations(range(5)))
def test_permuting_slices_permutes_the_matrix_bit_for_bit(slices, order):
    matrix = ssim_matrix(slices, 255)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1)
    assert np.abs(matrix).max() <= 1
    np.testing.assert_array_equal(ssim_matrix(slices[order], 255), matrix[np.ix_(order, order)])


def test_the_bits_depend_on_the_two_slices_alone():
    slices = np.random.default_rng(3).integers(0, 256, (23, 45, 280), dtype=np.uint8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ssim_matrix(slices, 255)
        torch.set_num_threads(5)
        np.testing.assert_array_equal(ssim_matrix(slices, 255), alone)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(ssim_matrix(slices[4:11], 255), alone[4:11, 4:11])


def test_smaller_than_the_window_is_refused():
    with pytest.raises(InputError, match="10 x 64"):
        ssim_matrix(np.zeros((2, 10, 64), np.uint8), 255)


@pytest.mark.real
def test_real_ct(headneck_grey):
    slices = headneck_grey[::15]
    expected = reference_matrix(slices, 255)
    assert np.abs(ssim_matrix(slices, 255) - expected).max() < ROUNDINGS
