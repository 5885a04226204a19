"""SSIM by the kernels against scikit-image in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from emulation import EmulatedModule, emulate
from hard_slices import STACKS, as_float, odd_sizes
from lim_gpu.cuda.module import load, source
from lim_gpu.errors import InputError, UsageError
from lim_gpu.similarity.cuda import ssim
from lim_gpu.similarity.cuda.ssim import TENSOR, VERSIONS, default_version, ssim_matrix, ssim_matrix_plain, strip_shape
from lim_gpu.similarity.ssim import gaussian

TOLERANCE = 1e-6  # ten times stricter than the contract; the largest error seen is 5e-7, on tensor cores 8e-7


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


versions = pytest.mark.parametrize("version", ["pairs", "tensor_4x16"])
tensors = pytest.mark.parametrize("version", TENSOR)


@pytest.mark.parametrize("name", STACKS)
def test_equals_scikit_image(engine, name):
    slices = STACKS[name]()[:, :50, :61]
    expected = reference(slices, 255)
    assert np.abs(compute(engine, slices, version="pairs") - expected).max() < TOLERANCE
    plain = ssim_matrix_plain(engine.tensor(slices), 255, module=engine.module("ssim")).cpu().numpy()
    assert np.abs(plain - expected).max() < TOLERANCE
    assert np.ptp(expected) > 0.01


def flips():
    """From row to row and from column to column the farthest steps of a product that bytes can make, either sign."""
    row, column = np.mgrid[:23, :30]
    patterns = (row % 2, 1 - row % 2, (row + column) % 2, row // 11 % 2, column // 16, row // 12)
    return 255 * np.stack(patterns).astype(np.uint8)


@pytest.mark.parametrize("name", [*STACKS, "flips"])
def test_tensor_equals_scikit_image(engine, name):
    slices = (flips() if name == "flips" else STACKS[name]())[:, :37, :40]
    if engine.device.type == "cpu":
        slices = slices[:: -(-len(slices) // 9)]  # the products are emulated a byte at a time
    assert np.abs(compute(engine, slices, version="tensor_4x16") - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.parametrize("name", ["saturated", "near_duplicates", "ct_like"])
def test_floats_equal_scikit_image(engine, name):
    slices = as_float(STACKS[name]()[:, :40, :61])
    expected = reference(slices, 1)
    assert np.abs(compute(engine, slices, 1) - expected).max() < TOLERANCE
    plain = ssim_matrix_plain(engine.tensor(slices), 1, module=engine.module("ssim")).cpu().numpy()
    assert np.abs(plain - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    "slices",
    [*odd_sizes(), noise(2, 13, 1040), noise(2, 43, 26), noise(2, 33, 27)],
    ids=lambda slices: "x".join(map(str, slices.shape)),
)
@versions
def test_any_size_from_11(engine, slices, version):
    assert np.abs(compute(engine, slices, version=version) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.parametrize("n", [1, 2, 33, 53])  # 53: more than a block takes
@versions
def test_any_number_of_slices(engine, n, version):
    slices = noise(n, 13, 12)
    assert np.abs(compute(engine, slices, version=version) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.parametrize("shape", [(2, 11, 11), (3, 12, 26), (27, 13, 27), (6, 77, 60)], ids=str)
def test_versions_on_tensor_cores_give_the_same_bits(engine, shape):
    slices = noise(*shape)
    slices[1] = slices[0] // 2
    one, other = (compute(engine, slices, version=version) for version in TENSOR)
    assert (one == other).all()


@pytest.mark.emulated
@pytest.mark.parametrize("segment", [1, 7, 23])
def test_the_rows_of_a_slice_are_prepared_in_any_segments(monkeypatch, segment):
    slices = torch.tensor(noise(2, 40, 27))
    whole = ssim_matrix(slices, 255, module=emulate("ssim"), version="tensor_8x24")
    monkeypatch.setattr(ssim, "SEGMENT", segment)
    assert torch.equal(ssim_matrix(slices, 255, module=emulate("ssim"), version="tensor_8x24"), whole)


def test_an_unknown_version(engine):
    with pytest.raises(UsageError, match="no version 'staged'.*pairs, tensor_4x16, tensor_8x24"):
        compute(engine, noise(2, 12, 12), version="staged")


@tensors
def test_tiles_meet_every_pair_of_two_blocks(engine, version):
    """Blocks of slices on the diagonal and above it, of more and of fewer slices than a tile has."""
    slices, slab = noise(50, 11, 12), 4 * engine.module("ssim").constants["SLAB"]
    whole = compute(engine, slices, version="tensor_8x24")
    assert (compute(engine, slices, version=version) == whole).all()
    for block in (26, 49):
        assert (compute(engine, slices, version=version, budget=2 * block * (slab + 11 * 12)) == whole).all()


@pytest.mark.parametrize(("offset", "data_range"), [(1000, 40), (-1024, 4000), (0, 1e-30), (1e-20, 1e-22), (0, 1e30)])
def test_any_offset_and_data_range(engine, offset, data_range):
    rng = np.random.default_rng(1)
    slices = (offset + data_range * rng.normal(0, 0.2, (4, 19, 23))).astype(np.float32)
    assert np.abs(compute(engine, slices, data_range) - reference(slices, data_range)).max() < TOLERANCE


@pytest.mark.parametrize("version", [*VERSIONS, "floats"])
def test_a_value_depends_on_its_two_slices_alone(engine, version):
    slices, options = noise(7, 14, 33), {"data_range": 255, "version": version}
    if version == "floats":
        slices, options = as_float(slices), {"data_range": 1}
    slices[5] = slices[2]
    matrix = compute(engine, slices, **options)
    order = np.random.default_rng(2).permutation(7)
    assert (compute(engine, slices[order], **options) == matrix[np.ix_(order, order)]).all()
    assert (matrix == matrix.T).all()
    assert matrix[2, 5] == 1
    assert (np.delete(matrix[2], [2, 5]) < 1).all()


@pytest.mark.emulated
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("version", "width"), [("pairs", 530), ("tensor_4x16", 29), ("tensor_8x24", 29)])  # two strips
def test_order_of_threads_does_not_matter(seed, version, width):
    slices = torch.tensor(noise(5, 15, width))
    shuffled, straight = (ssim_matrix(slices, 255, module=emulate("ssim", k), version=version) for k in (seed, 0))
    assert torch.equal(shuffled, straight)


def test_tensor_cores_take_bytes_alone(engine):
    for slices, data_range in ((as_float(noise(2, 12, 12)), 255), (noise(2, 12, 12), 40)):
        with pytest.raises(UsageError, match=f"of range {data_range} is not for tensor cores. Give uint8 of range 255"):
            compute(engine, slices, data_range, version="tensor_4x16")
    cuda, module = torch.device("cuda"), engine.module("ssim")
    assert default_version(torch.float32, 255, cuda, module) == "pairs"
    assert default_version(torch.uint8, 40, cuda, module) == "pairs"


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("capability", "kilobytes", "version"),
    [
        ((7, 5), 64, "pairs"), ((8, 0), 163, "tensor_8x24"), ((8, 6), 99, "tensor_8x24"), ((9, 0), 227, "tensor_4x16"),
        ((10, 0), 227, "tensor_4x16"), ((12, 0), 99, "tensor_8x24"),
    ],
)  # fmt: skip
def test_default_version(monkeypatch, capability, kilobytes, version):
    cuda, module = torch.device("cuda"), EmulatedModule("ssim")
    module.shared_bytes = kilobytes << 10
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(ssim, "tensor_cores_agree", lambda device, module: True)
    assert default_version(torch.uint8, 255, cuda, module) == version
    monkeypatch.setattr(ssim, "tensor_cores_agree", lambda device, module: False)
    assert default_version(torch.uint8, 255, cuda, module) == "pairs"


@pytest.mark.emulated
def test_tensor_cores_that_differ_are_left_out_with_a_warning(monkeypatch):
    good = emulate("ssim")
    assert ssim.tensor_cores_agree(torch.device("cpu"), good)

    compare = ssim._Tensor.compare

    def wrong(self, x, y):
        compare(self, x, y)
        self.matrix[0, 1] += 1e-3

    monkeypatch.setattr(ssim._Tensor, "compare", wrong)
    with pytest.warns(UserWarning, match="is not used"):
        assert not ssim.tensor_cores_agree(torch.device("cpu"), emulate("ssim", 1))


@pytest.mark.gpu
def test_the_tensor_cores_of_this_gpu_agree():
    device = torch.device("cuda", torch.cuda.current_device())
    if torch.cuda.get_device_capability(device) < ssim.TENSOR_SINCE:
        pytest.skip("its tensor cores have no product of this shape")
    assert ssim.tensor_cores_agree(device, load("ssim"))


def numbers(pattern):
    return [float(value) for value in re.findall(r"[\d.]+(?=f?\b)", re.search(pattern, source("ssim"))[1])]


def test_constants_of_the_tensor_version():
    weights = numbers(r"return (k == 0 .*?): 0;")[1::2]
    total = weights[0] + 2 * sum(weights[1:])
    assert (len(weights), total) == (6, numbers(r"WEIGHT_SUM = (.*);")[0])
    assert max(weights) * 128 < 2**23  # three digits
    assert 32640 * total / 4 < 2**31  # a step of h
    response = np.fft.rfft(np.array([*weights, *[0] * 1000, *weights[:0:-1]]) / total - [
        *gaussian()[5:], *[0] * 1000, *gaussian()[:5]
    ])  # fmt: skip
    assert np.abs(response).max() < 1.3e-6
    tails = numbers(r"tail\[RADIUS\] = \{(.*)\}")
    np.testing.assert_array_equal(np.float32(tails), np.float32(np.cumsum(gaussian()[::-1])[:5][::-1]))
    power, root = numbers(r"MEAN_SCALE = (.*);")
    assert (power * root) ** 2 == pytest.approx(2**32 * total / 4, rel=1e-15)


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
@versions
def test_real_ct(engine, headneck_grey, version):
    slices = headneck_grey[::9]
    if engine.device.type == "cpu":
        slices = headneck_grey[[10, 11, 100]] if version == "pairs" else headneck_grey[[10, 100], 200:300, 200:300]
    assert np.abs(compute(engine, slices, version=version) - reference(slices, 255)).max() < TOLERANCE


@pytest.mark.gpu
@versions
def test_the_same_bits_run_after_run(version):
    slices = torch.tensor(noise(300, 96, 512)).cuda()
    assert torch.equal(ssim_matrix(slices, 255, version=version), ssim_matrix(slices, 255, version=version))


@pytest.mark.gpu
def test_the_gpu_differs_from_the_emulation_in_the_division_alone():
    slices = torch.tensor(noise(20, 61, 77))
    emulated = ssim_matrix(slices, 255, module=emulate("ssim"), version="tensor_4x16")
    found = ssim_matrix(slices.cuda(), 255, version="tensor_4x16").cpu()
    np.testing.assert_allclose(found, emulated, rtol=0, atol=2e-7)
