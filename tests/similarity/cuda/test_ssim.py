"""SSIM by the kernels against scikit-image in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from emulation import emulate
from hard_slices import STACKS, as_float, odd_sizes
from lim_gpu.errors import InputError
from lim_gpu.similarity.cuda.ssim import ssim_matrix, ssim_matrix_plain, strip_shape

TOLERANCE = 1e-6  # ten times stricter than the contract; the largest error seen is 5e-7


def reference(slices, data_range):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": data_range}
    doubles = slices.astype(np.float64)
    matrix = np.eye(len(slices))
    for i, j in zip(*np.triu_indices(len(slices), 1), strict=True):
        matrix[i, j] = matrix[j, i] = structural_similarity(doubles[i], doubles[j], **options)
    return matrix


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def compute(engine, slices, data_range=255, **options):
    return ssim_matrix(engine.tensor(slices), data_range, module=engine.module("ssim"), **options).cpu().numpy()


@pytest.mark.parametrize("name", STACKS)
def test_equals_scikit_image(engine, name):
    slices = STACKS[name]()[:, :50, :61]
    expected = reference(slices, 255)
    assert np.abs(compute(engine, slices) - expected).max() < TOLERANCE
    plain = ssim_matrix_plain(engine.tensor(slices), 255, module=engine.module("ssim")).cpu().numpy()
    assert np.abs(plain - expected).max() < TOLERANCE
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("name", ["saturated", "near_duplicates", "ct_like"])
def test_floats_equal_scikit_image(engine, name):
    slices = as_float(STACKS[name]()[:, :40, :61])
    expected = reference(slices, 1)
    assert np.abs(compute(engine, slices, 1) - expected).max() < TOLERANCE
    plain = ssim_matrix_plain(engine.tensor(slices), 1, module=engine.module("ssim")).cpu().numpy()
    assert np.abs(plain - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    "slices", [*odd_sizes(), noise(2, 13, 1040)], ids=lambda slices: "x".join(map(str, slices.shape))
)
def test_any_size_from_11(engine, slices):
    assert np.abs(compute(engine, slices) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.parametrize("n", [1, 2, 33])
def test_any_number_of_slices(engine, n):
    slices = noise(n, 13, 12)
    assert np.abs(compute(engine, slices) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.parametrize(("offset", "data_range"), [(1000, 40), (-1024, 4000), (0, 1e-30), (1e-20, 1e-22), (0, 1e30)])
def test_any_offset_and_data_range(engine, offset, data_range):
    rng = np.random.default_rng(1)
    slices = (offset + data_range * rng.normal(0, 0.2, (4, 19, 23))).astype(np.float32)
    assert np.abs(compute(engine, slices, data_range) - reference(slices, data_range)).max() < TOLERANCE


def test_a_value_depends_on_its_two_slices_alone(engine):
    slices = as_float(noise(7, 14, 33))
    slices[5] = slices[2]
    matrix = compute(engine, slices, 1)
    order = np.random.default_rng(2).permutation(7)
    assert (compute(engine, slices[order], 1) == matrix[np.ix_(order, order)]).all()
    assert (matrix == matrix.T).all()
    assert matrix[2, 5] == 1
    assert (np.delete(matrix[2], [2, 5]) < 1).all()


@pytest.mark.emulated
@pytest.mark.parametrize("seed", [1, 2])
def test_order_of_threads_does_not_matter(seed):
    slices = torch.tensor(noise(5, 15, 530))  # two strips
    assert torch.equal(
        ssim_matrix(slices, 255, module=emulate("ssim", seed)), ssim_matrix(slices, 255, module=emulate("ssim"))
    )


def test_nan_is_not_hidden(engine):
    slices = as_float(noise(3, 12, 13))
    slices[1, 5, 5] = np.nan
    assert np.isnan(compute(engine, slices, 1)).tolist() == [
        [False, True, False],
        [True, False, True],
        [False, True, False],
    ]


def test_smaller_than_the_window(engine):
    with pytest.raises(InputError, match="10 x 40 pixels: SSIM needs at least 11 x 11"):
        compute(engine, noise(2, 10, 40))


@pytest.mark.emulated
def test_strips_cover_every_width():
    module = emulate("ssim")
    for width in range(11, 4000):
        threads, strips, pitch = strip_shape(width, module)
        windows = threads * module.constants["COLUMNS"] - 10
        assert threads % 32 == 0
        assert threads <= module.constants["MAX_THREADS"]
        assert (strips - 1) * windows < width - 10 <= strips * windows
        assert pitch % 2 == 0
        assert pitch >= max(width, (strips - 1) * windows + threads * module.constants["COLUMNS"])


@pytest.mark.real
def test_real_ct(engine, headneck_grey):
    slices = headneck_grey[[10, 11, 100]] if engine.device.type == "cpu" else headneck_grey[::9]
    assert np.abs(compute(engine, slices) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.gpu
def test_the_same_bits_run_after_run(engine):
    slices = noise(300, 96, 512)
    assert (compute(engine, slices) == compute(engine, slices)).all()
