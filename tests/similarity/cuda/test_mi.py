"""Normalized mutual information by the kernels: against scikit-image, and the CPU path bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import normalized_mutual_information

from emulation import EmulatedModule
from hard_slices import STACKS, as_float
from lim_gpu.errors import UsageError
from lim_gpu.similarity import mi as cpu
from lim_gpu.similarity.cuda.mi import KERNELS, histogram_rows, mi_matrix, mi_matrix_plain, whole_bytes

TOLERANCE = 1e-6


def compute(engine, slices, bins=100, **options):
    return mi_matrix(engine.tensor(slices), bins, module=engine.module("mi"), **options).cpu().numpy()


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, shape) * (rng.random(shape) < 0.6)).astype(np.uint8)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("bins", [100, 256])
def test_equals_scikit_image(engine, name, bins):
    slices = STACKS[name]()[:7, :50, :45]
    matrix = compute(engine, slices, bins)
    for i, j in zip(*np.triu_indices(len(slices), 1), strict=True):
        if np.ptp(slices[i]) or np.ptp(slices[j]):
            assert abs(matrix[i, j] - normalized_mutual_information(slices[i], slices[j], bins=bins)) < TOLERANCE
        else:
            assert matrix[i, j] == 2
    assert (matrix == cpu.mi_matrix(slices, bins)).all()


@pytest.mark.parametrize("bins", [2, 7, 100, 110, 111, 200])
@pytest.mark.parametrize("as_type", [np.asarray, as_float, lambda slices: slices.astype(np.float32) * -1e30])
def test_equals_the_cpu_bit_for_bit(engine, bins, as_type):
    slices = as_type(noise(4, 21, 19))
    expected = cpu.mi_matrix(slices, bins)
    assert (compute(engine, slices, bins) == expected).all()
    plain = mi_matrix_plain(engine.tensor(slices), bins, module=engine.module("mi")).cpu().numpy()
    assert (plain == expected).all()


def slices_of_full_bins():
    """Slices whose fullest bins meet in many pixels, in none, and in all of a padded piece."""
    slices = noise(6, 9, 15)
    slices[1] = slices[0]
    slices[2, slices[0] == 0] = 255
    slices[3:] = 7
    slices[4, :5] = 9
    return slices


@pytest.mark.parametrize("version", KERNELS)
@pytest.mark.parametrize("bins", [2, 3, 5, 100, 110])
def test_every_version_equals_the_cpu_bit_for_bit(engine, version, bins):
    for slices in (slices_of_full_bins(), noise(3, 16, 2), noise(5, 7, 23)):
        assert (compute(engine, slices, bins, version=version) == cpu.mi_matrix(slices, bins)).all()


def test_memory_of_a_whole_histogram():
    assert whole_bytes(100) == 4 * (10_000 + 100 + 1 + 3)  # rounded up to 16 bytes


@pytest.mark.emulated
def test_the_version_that_needs_it_whole_is_left_out_where_it_does_not_fit(monkeypatch):
    launched = []
    module = EmulatedModule("mi")
    launch = module.launch
    monkeypatch.setattr(module, "launch", lambda kernel, *a, **k: (launched.append(kernel), launch(kernel, *a, **k)))
    for bins in (100, 200):
        mi_matrix(torch.tensor(noise(2, 5, 5)), bins, module=module)
    assert [kernel for kernel in launched if "pairs" in kernel] == ["mi_pairs_every", "mi_pairs"]


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 1, 1), (2, 1, 2), (33, 3, 5)], ids=str)
def test_any_size_and_number(engine, shape):
    slices = noise(*shape)
    assert (compute(engine, slices) == cpu.mi_matrix(slices)).all()


def test_neighbouring_floats_and_constants(engine):
    one, next_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    slices = np.full((4, 6, 7), one)
    slices[1, ::2] = next_one
    slices[2, :3] = np.float32(-3e-38)
    assert (compute(engine, slices, 10) == cpu.mi_matrix(slices, 10)).all()


@pytest.mark.emulated
@pytest.mark.parametrize("limit", [16 << 10, 64 << 10, 99 << 10, 227 << 10])
def test_any_amount_of_shared_memory(limit):
    module = EmulatedModule("mi", seed=1)
    module.shared_bytes = limit
    slices = noise(3, 30, 31)
    for bins in (64, 181, 256):
        expected = cpu.mi_matrix(slices, bins)
        assert (mi_matrix(torch.tensor(slices), bins, module=module).numpy() == expected).all()


def test_passes_over_the_histogram():
    assert histogram_rows(100, 48 << 10) == 100  # one pass
    assert histogram_rows(110, 48 << 10) == 55
    assert histogram_rows(256, 48 << 10) == 43  # six
    assert histogram_rows(256, 227 << 10) == 128


@pytest.mark.parametrize("bins", [1, 257])
def test_bins_outside_a_byte(engine, bins):
    with pytest.raises(UsageError, match=f"bins {bins} is outside 2..256"):
        compute(engine, noise(2, 4, 4), bins)


@pytest.mark.real
def test_real_ct(engine, headneck_grey):
    slices = headneck_grey[[10, 11, 100]] if engine.device.type == "cpu" else headneck_grey
    assert (compute(engine, slices) == cpu.mi_matrix(slices)).all()
