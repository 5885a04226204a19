"""similarity_matrix and refine: what goes in, what comes out, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

import lim_gpu.similarity
from hard_slices import STACKS, as_float
from lim_gpu import similarity_matrix
from lim_gpu.errors import InputError, LimGpuError, NoGpuError, UsageError
from lim_gpu.similarity import BORDERLINE, METHODS, pairs_near, refine, resolve_device, resolve_devices, same_side
from lim_gpu.similarity.deepnet import cosine_matrix, double_precision, embed, load_model
from lim_gpu.similarity.hash import dhash, matrix_of_hashes
from lim_gpu.similarity.mi import mi_matrix, mi_pair
from lim_gpu.similarity.ssim import ssim_matrix, ssim_pair

RANGE = {"ssim": (-1, 1), "mi": (1, 2), "deepnet": (-1, 1), "hash": (0, 1)}
SELF = {"ssim": 1, "mi": 2, "deepnet": 1, "hash": 1}


@pytest.fixture
def options(weights):
    return lambda method: {"weights": weights} if method == "deepnet" else {}


def direct(slices, method, weights):
    if method == "deepnet":
        return cosine_matrix(embed(slices, load_model(weights, "cpu"))).numpy()
    return {
        "ssim": lambda: ssim_matrix(slices, 255),
        "mi": lambda: mi_matrix(slices),
        "hash": lambda: matrix_of_hashes(dhash(slices)),
    }[method]()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_every_container(method, weights, options):
    slices = STACKS["ct_like"]()[:5]
    expected = torch.from_numpy(direct(slices, method, weights))
    frozen = slices.copy()
    frozen.setflags(write=False)
    inputs = (torch.from_numpy(slices), slices, frozen, np.asfortranarray(slices))
    for given_slices in inputs[:1] if method == "deepnet" else inputs:
        matrix = similarity_matrix(given_slices, method, device="cpu", **options(method))
        assert matrix.dtype == torch.float32
        assert torch.equal(matrix, expected)


@pytest.mark.parametrize("method", METHODS)
def test_laws(method, options):
    slices = np.concatenate([STACKS["near_duplicates"](), np.zeros((1, 37, 53), np.uint8)])
    matrix = similarity_matrix(slices, method, device="cpu", **options(method))
    low, high = RANGE[method]
    assert torch.equal(matrix, matrix.T)
    assert (matrix.diagonal() == SELF[method]).all()
    assert matrix.min() >= low
    assert matrix.max() <= high
    order = [3, 0, 6, 5, 1, 2, 4]
    permuted = similarity_matrix(slices[order], method, device="cpu", **options(method))
    torch.testing.assert_close(permuted, matrix[order][:, order], rtol=0, atol=1e-6 if method == "deepnet" else 0)


@pytest.mark.parametrize("method", METHODS)
def test_one_slice_is_like_itself(method, options):
    assert similarity_matrix(np.zeros((1, 20, 20), np.uint8), method, **options(method)).tolist() == [[SELF[method]]]


@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_floats_stand_for_the_same_pictures(method):
    slices = STACKS["ct_like"]()
    whole = similarity_matrix(slices, method, device="cpu")
    scaled = similarity_matrix(slices.astype(np.float32) / 255 * 4, method, data_range=4, device="cpu")
    torch.testing.assert_close(scaled, whole, rtol=0, atol=1e-5)


def test_deepnet_scales_floats(weights):
    slices = STACKS["ct_like"]()[:3]
    whole = similarity_matrix(slices, "deepnet", weights=weights, device="cpu")
    scaled = similarity_matrix(slices / 51.0, "deepnet", data_range=5, weights=weights, device="cpu")
    torch.testing.assert_close(scaled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, np.float16, np.float64, ">i2", ">f4"])
def test_other_numbers_with_data_range(dtype):
    slices = STACKS["ct_like"]()
    matrix = similarity_matrix(slices.astype(dtype), "ssim", data_range=255, device="cpu")
    torch.testing.assert_close(matrix, similarity_matrix(slices, "ssim", device="cpu"), rtol=0, atol=1e-6)


GREY = np.zeros((2, 16, 16), np.uint8)
FLOAT = as_float(GREY)
REFUSED = {
    "unknown method": (GREY, {"method": "psnr"}, UsageError, "psnr"),
    "floats without data_range": (FLOAT, {}, UsageError, "data_range"),
    "data_range 0": (FLOAT, {"data_range": 0}, UsageError, "data_range"),
    "data_range nan": (FLOAT, {"data_range": float("nan")}, UsageError, "data_range"),
    "data_range inf": (FLOAT, {"data_range": float("inf")}, UsageError, "data_range"),
    "data_range far too small": (FLOAT + 1, {"data_range": 1e-9}, InputError, "data_range"),
    "NaN": (np.where(np.arange(16) == 3, np.nan, FLOAT), {"data_range": 1}, InputError, "32 pixels"),
    "infinity": (np.full_like(FLOAT, np.inf), {"data_range": 1}, InputError, "infinite"),
    "too large for float32": (FLOAT.astype(np.float64) + 1e300, {"data_range": 1}, InputError, "infinite"),
    "no slices": (GREY[:0], {}, InputError, "(0, 16, 16)"),
    "no pixels": (GREY[:, :0], {}, InputError, "(2, 0, 16)"),
    "one picture": (GREY[0], {}, InputError, "(16, 16)"),
    "colour": (GREY[..., None], {}, InputError, "(2, 16, 16, 1)"),
    "sparse": (torch.rand(3, 9, 9).to_sparse(), {"data_range": 1}, InputError, "sparse_coo"),
    "meta": (torch.rand(3, 9, 9, device="meta"), {"data_range": 1}, InputError, "meta"),
    "nested": (torch.nested.nested_tensor([torch.rand(9, 9)] * 2), {"data_range": 1}, InputError, "no plain array"),
    "quantized": (
        torch.quantize_per_tensor(torch.rand(3, 9, 9), 0.1, 0, torch.quint8),
        {"data_range": 1},
        InputError,
        "no plain array",
    ),
    "booleans": (GREY == 0, {}, InputError, "bool"),
    "complex": (FLOAT * 1j, {"data_range": 1}, InputError, "complex"),
    "complex tensor": (torch.zeros(2, 16, 16, dtype=torch.complex64), {"data_range": 1}, InputError, "complex"),
    "text": (np.array([[["a"]]]), {}, InputError, "no images"),
    "below SSIM's window": (GREY[:, :10], {}, InputError, "10 x 16"),
    "bins": (GREY, {"method": "mi", "bins": 257}, UsageError, "257"),
    "unknown device": (GREY, {"device": "tpu"}, UsageError, "tpu"),
    "not CUDA": (GREY, {"device": "meta"}, UsageError, "meta"),
    "missing weights": (GREY, {"method": "deepnet", "weights": "absent.pth"}, InputError, "absent.pth"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    slices, options, error, text = REFUSED[name]
    with pytest.raises(LimGpuError) as caught:
        similarity_matrix(slices, **{"method": "ssim", "device": "cpu", **options})
    assert caught.type is error
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lazy_negative_is_what_it_says():
    values = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    lazy = similarity_matrix(torch._neg_view(-values), "ssim", data_range=1, device="cpu")
    torch.testing.assert_close(lazy, similarity_matrix(values, "ssim", data_range=1, device="cpu"), rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there(device):
    with pytest.raises(NoGpuError, match="--device cpu") as caught:
        similarity_matrix(GREY, "ssim", device=device)
    assert caught.value.exit_code == 4
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_gpu_takes_tensors_and_cupy_where_they_lie(method, options):
    import cupy

    slices = STACKS["ct_like"]()
    expected = similarity_matrix(slices, method, device="cpu", **options(method))
    for given_slices in (slices, torch.from_numpy(slices).cuda(), cupy.asarray(slices)):
        matrix = similarity_matrix(given_slices, method, **options(method))
        assert matrix.is_cuda
        torch.testing.assert_close(matrix.cpu(), expected, rtol=0, atol=1e-5)


MEMORY = """
import resource, sys, numpy as np
from lim_gpu import similarity_matrix
slices = np.random.default_rng(0).integers(0, 256, (300, 160, 160), dtype=np.uint8)
similarity_matrix(slices[:3], sys.argv[1], device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
similarity_matrix(slices, sys.argv[1], device="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


# whose stacks and arenas would count as well, and grow with the cores
FEW_THREADS = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2"}


@pytest.mark.parametrize("method", ["ssim", "mi"])
def test_memory_stays_below_one_float32_field_a_slice(method):
    field = 300 * 160 * 160 * 4  # SSIM's tiles of 16 rows take half of it here, and a tenth at 512 rows
    grown = subprocess.run(
        [sys.executable, "-c", MEMORY, method], check=True, capture_output=True, text=True, env=FEW_THREADS
    ).stdout
    assert int(grown) * 1024 < 0.8 * field


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_same_side(value, threshold):
    stored = same_side(value, threshold)
    assert (float(stored) >= threshold) == (value >= threshold)
    assert abs(float(stored) - value) <= 2**-23


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 14), st.integers(-2, 2))
def test_refine_gives_the_answer_of_float64(pair, ulps):
    slices = STACKS["near_duplicates"]()
    i, j = (int(k[pair]) for k in np.triu_indices(len(slices), 1))
    for method, exact in (("ssim", lambda x, y: ssim_pair(x, y, 255)), ("mi", mi_pair)):
        threshold = exact(slices[i], slices[j]) + ulps * 2**-52
        tensor = similarity_matrix(slices, method, device="cpu")
        refined_tensor, count = refine(tensor, torch.from_numpy(slices), method, threshold)
        matrix, refined = tensor.numpy(), refined_tensor.numpy()
        assert (float(refined[i, j]) >= threshold) == (exact(slices[i], slices[j]) >= threshold)
        near = np.abs(np.triu(matrix.astype(float), 1) - threshold) <= BORDERLINE
        assert count == np.triu(near, 1).sum() >= 1
        np.testing.assert_array_equal(refined[~(near | near.T)], matrix[~(near | near.T)])
        np.testing.assert_array_equal(refined, refined.T)
        assert np.abs(refined - matrix).max() < 1e-6


def test_refine_deepnet_in_float64(weights):
    slices = STACKS["ct_like"]()[:4]
    model = load_model(weights, "cpu")
    exact = cosine_matrix(embed(slices, double_precision(model)))
    matrix = cosine_matrix(embed(slices, model))
    threshold = float(exact[0, 1])
    refined, count = refine(matrix, lambda i: slices[i], "deepnet", threshold, model=model)
    assert count >= 1
    np.testing.assert_allclose(refined, exact, rtol=0, atol=1e-7)


def test_refine_leaves_hash_and_far_pairs_alone():
    slices = STACKS["near_duplicates"]()
    matrix = similarity_matrix(slices, "hash", device="cpu")
    assert refine(matrix, slices, "hash", 1 - 6 / 64) == (matrix, 0)
    matrix = torch.full((3, 3), -torch.inf)
    assert refine(matrix, slices, "ssim", 0.5) == (matrix, 0)


def test_near_pairs_are_found_in_every_strip_of_rows(monkeypatch):
    monkeypatch.setattr(lim_gpu.similarity, "NEAR_ROWS", 4)
    matrix = torch.rand((11, 11), generator=torch.Generator().manual_seed(3))
    for i, j in ((0, 10), (3, 4), (4, 5), (9, 10), (5, 5), (10, 2)):  # the last two are no pairs i < j
        matrix[i, j] = 2.00005
    assert pairs_near(matrix, 2.0) == [[0, 10], [3, 4], [4, 5], [9, 10]]


def test_several_gpus_share_a_reduction_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(lim_gpu.similarity, "_has_cupy", lambda: True)
    three = [torch.device("cuda", i) for i in range(3)]
    assert resolve_devices("cuda") == resolve_devices("auto") == three
    assert resolve_devices("cuda:1") == three[1:2]
    assert resolve_devices("cpu") == [torch.device("cpu")]
