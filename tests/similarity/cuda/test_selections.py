"""Real CT, and procedural CT where there is none, through every version of every kernel: the same slices stay.

Values of SSIM differ by up to 1e-6 between the versions, so that equal selections are a fact about these slices, not
about all; MI and HASH are exact. Of one matrix the removal sequence is the CPU's to the last place.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lim_gpu
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom
from lim_gpu.pruning import cuda as prune
from lim_gpu.pruning.rules import leader
from lim_gpu.similarity import mi as mi_on_cpu
from lim_gpu.similarity import ssim as ssim_on_cpu
from lim_gpu.similarity.cuda import hash as cuda_hash
from lim_gpu.similarity.cuda import mi as cuda_mi
from lim_gpu.similarity.cuda import ssim as cuda_ssim
from lim_gpu.similarity.hash import dhash, matrix_of_hashes


@pytest.fixture(params=["procedural", pytest.param("real", marks=pytest.mark.real)])
def slices(request, engine):
    """uint8: whole volumes on a GPU, crops of some neighbours and some strangers under emulation."""
    if request.param == "real":
        volume = request.getfixturevalue("headneck_grey")
    else:
        volume = Intensity.parse().to_uint8(phantom("chest", 60, 128, 128, seed=3))
    if engine.device.type == "cuda":
        return volume
    row, column = np.array(volume.shape[1:]) // 2 - 20
    few = [0, 1, 2, 3, 20, 21, 22, 40, 41, 59]
    return np.ascontiguousarray(volume[few, row : row + 37, column : column + 41])


def ssim_versions(slices, engine):
    here, module = engine.tensor(slices), engine.module("ssim")
    for version in cuda_ssim.VERSIONS:
        yield version, cuda_ssim.ssim_matrix(here, 255, version=version, module=module)
    yield "plain", cuda_ssim.ssim_matrix_plain(here, 255, module=module)


def mi_versions(slices, engine):
    here, module = engine.tensor(slices), engine.module("mi")
    for version in cuda_mi.KERNELS:
        yield version, cuda_mi.mi_matrix(here, version=version, module=module)
    yield "plain", cuda_mi.mi_matrix_plain(here, module=module)


def hash_versions(slices, engine):
    module = engine.module("hash")
    yield "kernels", cuda_hash.matrix_of_hashes(cuda_hash.dhash(engine.tensor(slices), module=module), module=module)


def of_imagehash(slices):
    imagehash = pytest.importorskip("imagehash")
    hashes = [imagehash.dhash(Image.fromarray(image)) for image in slices]
    return np.array([[1 - (a - b) / 64 for b in hashes] for a in hashes], dtype=np.float32)


METHODS = {  # versions on the GPU, and the CPU's matrix
    "ssim": (ssim_versions, lambda slices: ssim_on_cpu.ssim_matrix(slices, 255)),
    "mi": (mi_versions, lambda slices: mi_on_cpu.mi_matrix(slices)),
    "hash": (hash_versions, lambda slices: matrix_of_hashes(dhash(slices))),
}


def between(matrix):
    """A threshold in the widest gap between the values of pairs, of the middle half of them."""
    values = np.sort(matrix[np.triu_indices(len(matrix), 1)].astype(np.float64))
    middle = values[len(values) // 4 : -len(values) // 4]
    widest = np.argmax(np.diff(middle))
    return (middle[widest] + middle[widest + 1]) / 2


@pytest.mark.parametrize("method", METHODS)
def test_every_version_selects_the_same_slices(engine, slices, method):
    versions, on_cpu = METHODS[method]
    matrix_on_cpu = on_cpu(slices)
    expected, threshold = lim_gpu.rank(matrix_on_cpu), between(matrix_on_cpu)
    leaders = leader(matrix_on_cpu, threshold)
    assert 1 < len(leaders) < len(slices)
    for name, matrix in versions(slices, engine):
        ranking = lim_gpu.rank(matrix.cpu())
        for plain in (False, True):
            dropped, covered_by, _ = prune.rank(matrix, plain=plain, module=engine.module("prune"))
            np.testing.assert_array_equal(dropped, ranking.dropped, err_msg=name)
            np.testing.assert_array_equal(covered_by, ranking.covered_by, err_msg=name)
        for keep in (0.1, 0.3, 0.5):
            np.testing.assert_array_equal(ranking.keep(keep), expected.keep(keep), err_msg=name)
        np.testing.assert_array_equal(ranking.threshold(threshold), expected.threshold(threshold), err_msg=name)
        on_device = prune.leader(matrix, threshold, module=engine.module("prune"))
        np.testing.assert_array_equal(on_device, leaders, err_msg=name)


def test_the_cpu_has_the_hashes_of_imagehash(slices):
    np.testing.assert_array_equal(of_imagehash(slices), METHODS["hash"][1](slices))
