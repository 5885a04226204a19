"""HASH by the kernels against imagehash, bit for bit."""

from __future__ import annotations

import imagehash
import numpy as np
import PIL
import pytest
from PIL import Image

from hard_slices import STACKS, odd_sizes
from lim_gpu.similarity.cuda.hash import dhash, hamming_matrix, matrix_of_hashes
from lim_gpu.similarity.cuda.lanczos import rows_first


def compute(engine, slices):
    hashes = dhash(engine.tensor(slices), module=engine.module("hash"))
    return [f"{value:016x}" for value in hashes.cpu().numpy().view(np.uint64)]


def reference(slices):
    return [str(imagehash.dhash(Image.fromarray(pixels))) for pixels in slices]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", STACKS)
def test_equals_imagehash(engine, name):
    slices = STACKS[name]()[:9]
    assert compute(engine, slices) == reference(slices)


@pytest.mark.parametrize("slices", odd_sizes(), ids=lambda slices: "x".join(map(str, slices.shape[1:])))
def test_any_size_equals_imagehash(engine, slices):
    assert compute(engine, slices) == reference(slices)


@pytest.mark.parametrize("height", [1, 2, 7, 8, 9, 16, 23, 70])
def test_small_and_tall_sizes_equal_imagehash(engine, height):
    for width in (1, 2, 5, 8, 9, 10, 19, 40):
        slices = noise(3, height, width)
        assert compute(engine, slices) == reference(slices), (height, width)


def test_the_order_of_the_passes_matters():
    assert rows_first(512, 512)
    assert rows_first(100, 9) == (int(PIL.__version__.split(".")[0]) < 13)


@pytest.mark.parametrize("n", [1, 2, 33, 300])
def test_distances_are_counted_bits(engine, n):
    values = np.random.default_rng(n).integers(0, 2**64, n, dtype=np.uint64)
    values[-1] = values[0] ^ np.uint64(2**64 - 1)
    hashes = engine.tensor(values.view(np.int64))
    expected = np.array([[int(a ^ b).bit_count() for b in values] for a in values[: n // 2 + 1]])
    module = engine.module("hash")
    distances = hamming_matrix(hashes[: n // 2 + 1], hashes, module=module)
    assert (distances.cpu().numpy() == expected).all()
    assert (matrix_of_hashes(hashes[: n // 2 + 1], hashes, module=module).cpu().numpy() == 1 - expected / 64).all()
    assert (hamming_matrix(hashes, module=module).diagonal() == 0).all()


def test_no_slices(engine):
    none = dhash(engine.tensor(noise(0, 4, 4)), module=engine.module("hash"))
    assert none.shape == (0,)
    assert hamming_matrix(none, module=engine.module("hash")).shape == (0, 0)


@pytest.mark.real
def test_real_ct(engine, headneck_grey):
    slices = headneck_grey[:4] if engine.device.type == "cpu" else headneck_grey
    assert compute(engine, slices) == reference(slices)
