"""What lies on a GPU is chosen from there: the whole way with the kernels, against NumPy and Numba."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emulation import emulate
from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity
from lim_gpu.pruning import cuda as prune
from lim_gpu.pruning import hashes as hash_rules
from lim_gpu.pruning import rules as pruning
from lim_gpu.reduction import choice, picture
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.unit import units_of
from lim_gpu.similarity.cuda.hash import Search
from lim_gpu.store.slices import SliceStore
from reductions import assert_same_result
from stores import make_store

CALLS = [
    {"method": "ssim", "keep": 0.3},
    {"method": "ssim", "threshold": 0.6, "scope": "patient", "order": "lexicographic"},
    {"method": "mi", "threshold": 1.2, "rule": "leader", "order": "lexicographic", "scope": "dataset"},
    {"method": "hash", "keep_count": 3},
    {"method": "hash", "threshold": 20, "rule": "leader", "order": "lexicographic", "scope": "dataset"},
    {"method": "hash", "keep": 0.2, "order": "lexicographic", "scope": "dataset"},
    {"method": "ssim", "keep": 0.3, "rule": "facility", "order": "lexicographic", "scope": "patient"},
    {"method": "hash", "threshold": 12, "rule": "k-center", "scope": "dataset"},
]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Tensors in host memory are taken for a GPU's, and the kernels run there."""
    for module in (pruning, picture, choice):
        monkeypatch.setattr(module, "on_gpu", lambda matrix: isinstance(matrix, torch.Tensor))
    monkeypatch.setattr(prune, "load", emulate)
    monkeypatch.setattr(hash_rules, "search_for", lambda hashes: Search(emulate("hash")))


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("choice"))


def choices(store_path, call, device):
    """The result of every unit, with its picture."""
    request = Request(Criterion(call["method"], Intensity.parse()), **{k: v for k, v in call.items() if k != "method"})
    engine = StoredMatrix(request.criterion, torch.device(device))
    with SliceStore(store_path) as store:
        for unit in units_of(store.volumes, request.scope):
            result = choice.choose(unit, [store[entry.key] for entry in unit.volumes], request, engine)
            yield replace(result, seconds=0, device="")


@pytest.mark.emulated
@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(map(str, call.values())))
def test_kernels_choose_as_the_cpu_does(store_path, call, request):
    expected = list(choices(store_path, call, "cpu"))
    request.getfixturevalue("as_on_a_gpu")
    for found, alike in zip(choices(store_path, call, "cpu"), expected, strict=True):
        assert_same_result(found, alike)


@pytest.mark.gpu
@pytest.mark.parametrize("call", [call for call in CALLS if call["method"] == "hash"], ids=str)
def test_a_gpu_chooses_as_the_cpu_does(store_path, call):
    for found, expected in zip(choices(store_path, call, "cuda:0"), choices(store_path, call, "cpu"), strict=True):
        assert_same_result(found, expected)


@pytest.mark.emulated
@pytest.mark.parametrize("order", [None, np.array([2, 0, 3, 1])])
def test_the_front_takes_tensors_of_a_gpu(as_on_a_gpu, order):
    matrix = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    ranking, expected = pruning.rank(torch.from_numpy(matrix), order), pruning.rank(matrix, order)
    np.testing.assert_array_equal(ranking.dropped, expected.dropped)
    np.testing.assert_array_equal(ranking.covered_by, expected.covered_by)
    np.testing.assert_array_equal(ranking.similarity, expected.similarity)
    if order is not None:
        inside = pruning.rank(matrix[np.ix_(order, order)])
        np.testing.assert_array_equal(expected.dropped, order[inside.dropped])
        np.testing.assert_array_equal(expected.covered_by, order[inside.covered_by])
    kept = pruning.leader(torch.from_numpy(matrix), 0.5, order)
    np.testing.assert_array_equal(kept, pruning.leader(matrix, 0.5, order))


@pytest.mark.emulated
@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.ones((0, 0)), np.full((2, 2), np.nan), np.full((2, 2), np.inf)])
def test_the_front_refuses_a_bad_tensor(as_on_a_gpu, matrix):
    tensor = torch.from_numpy(matrix.astype(np.float32))
    with pytest.raises(InputError):
        pruning.rank(tensor)
    with pytest.raises(InputError):
        pruning.leader(tensor, 0.5)
