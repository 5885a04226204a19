"""Pruning a matrix by the kernels: the CPU's choice, bit for bit."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import lim_gpu
from emulation import emulate
from lim_gpu.errors import InputError
from lim_gpu.pruning import cuda as prune
from lim_gpu.pruning import rules as pruning
from lim_gpu.reduction import picture

TINY = np.float32(1e-45)  # subnormal: 0 to a kernel that compares floats
TIES = np.array([-np.inf, -1, -TINY, -0.0, 0, TINY, 0.25, 0.5, 0.75, 1], dtype=np.float32)

matrices = st.integers(1, 40).flatmap(lambda n: arrays(np.float32, (n, n), elements=st.sampled_from(TIES.tolist())))
seeds = st.integers(0, 2**32 - 1)
with_engine = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def ties(n, seed=0):
    return np.random.default_rng(seed).choice(TIES, (n, n))


def every_row_wants_the_last(n):
    """Each removal changes the best of all rows that are left."""
    return np.tile(np.arange(n, dtype=np.float32) / n, (n, 1))


def few_pairs(n, count):
    """All but `count` pairs cannot be compared."""
    rng = np.random.default_rng(n)
    matrix = np.full((n, n), -np.inf, dtype=np.float32)
    matrix[rng.integers(0, n, count), rng.integers(0, n, count)] = rng.random(count)
    return matrix


def assert_ranked_as_on_the_cpu(engine, matrix, order=None, plain=False):
    dropped, covered_by, similarity = prune.rank(
        engine.tensor(matrix), order, plain=plain, module=engine.module("prune")
    )
    expected = pruning.rank(matrix if order is None else matrix[np.ix_(order, order)])
    np.testing.assert_array_equal(dropped, expected.dropped)
    np.testing.assert_array_equal(covered_by, expected.covered_by)
    np.testing.assert_array_equal(similarity, expected.similarity)
    assert (np.signbit(similarity) == np.signbit(expected.similarity)).all()


@with_engine
@given(matrix=matrices, seed=seeds, plain=st.booleans())
def test_rank_equals_the_cpu(engine, matrix, seed, plain):
    assert_ranked_as_on_the_cpu(engine, matrix, plain=plain)
    assert_ranked_as_on_the_cpu(engine, matrix, np.random.default_rng(seed).permutation(len(matrix)), plain)


@pytest.mark.parametrize(
    "matrix",
    [ties(1), ties(2), ties(33), np.ones((40, 40), np.float32), every_row_wants_the_last(70), few_pairs(300, 30),
     few_pairs(1025, 40), np.random.default_rng(0).random((130, 130), dtype=np.float32)],
    ids=["1", "2", "33", "equal", "last", "300", "1025", "130"],
)  # fmt: skip
def test_rank_of_any_size(engine, matrix):
    assert_ranked_as_on_the_cpu(engine, matrix)


@pytest.mark.emulated
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_threads_does_not_matter(seed):
    matrix = torch.from_numpy(np.random.default_rng(3).integers(0, 5, (100, 100)).astype(np.float32))
    for a, b in zip(
        prune.rank(matrix, module=emulate("prune", seed)), prune.rank(matrix, module=emulate("prune")), strict=True
    ):
        np.testing.assert_array_equal(a, b)


thresholds = st.sampled_from([-1.0, -1e-45, -1e-60, -0.0, 0.0, 1e-60, 0.25, 0.5 - 1e-12, 0.5, 0.5 + 1e-12, 2.0])


@with_engine
@given(matrix=matrices, seed=seeds, threshold=thresholds)
def test_leader_equals_the_cpu(engine, matrix, seed, threshold):
    module = engine.module("prune")
    kept = prune.leader(engine.tensor(matrix), threshold, module=module)
    assert kept.tolist() == pruning.leader(matrix, threshold).tolist()
    order = np.random.default_rng(seed).permutation(len(matrix))
    kept = prune.leader(engine.tensor(matrix), threshold, order, module=module)
    assert kept.tolist() == pruning.leader(matrix[np.ix_(order, order)], threshold).tolist()


@given(
    st.floats(width=32, allow_nan=False),
    st.floats(allow_nan=False, allow_infinity=False) | thresholds | st.sampled_from([1e60, -1e60]),
)
def test_keys_compare_as_float64_does(value, threshold):
    key = (
        prune.limit_key(float(np.float32(value)))
        if np.isfinite(value)
        else (2**31 + 0x7F800000 if value > 0 else 0x7FFFFF)
    )
    assert (key >= prune.limit_key(threshold)) == (float(np.float32(value)) >= threshold)


@with_engine
@given(matrix=matrices, seed=seeds)
def test_nearest_kept_equals_the_cpu(engine, matrix, seed):
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(matrix))[: rng.integers(1, len(matrix) + 1)])
    found = prune.nearest_kept(engine.tensor(matrix), kept, module=engine.module("prune"))
    for ours, expected in zip(found, pruning.nearest_kept(matrix, kept), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("matrix", [ties(1), ties(2), ties(50), few_pairs(9, 0), few_pairs(20, 3)], ids=len)
def test_range_equals_the_cpu(engine, matrix, monkeypatch):
    monkeypatch.setattr(prune, "RANGE_BYTES", 1000)
    assert prune.finite_range(engine.tensor(matrix)) == picture.finite_range(matrix)


@pytest.mark.gpu
def test_five_thousand_slices():
    matrix = np.random.default_rng(0).random((5000, 5000), dtype=np.float32)
    matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T
    there = torch.from_numpy(matrix).cuda()
    expected = lim_gpu.rank(matrix)
    lim_gpu.rank(there)
    torch.cuda.synchronize()
    start = time.perf_counter()
    ranking = lim_gpu.rank(there)
    seconds = time.perf_counter() - start
    print(f"\nranking of 5,000 slices: {seconds * 1e3:.1f} ms")
    np.testing.assert_array_equal(ranking.dropped, expected.dropped)
    np.testing.assert_array_equal(ranking.covered_by, expected.covered_by)
    np.testing.assert_array_equal(ranking.similarity, expected.similarity)
    assert lim_gpu.prune(there, threshold=0.999, rule="leader").tolist() == pruning.leader(matrix, 0.999).tolist()
    assert seconds < 1


@pytest.mark.gpu
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_on_the_gpu_is_refused(bad):
    matrix = torch.eye(5, device="cuda")
    matrix[3, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        lim_gpu.rank(matrix)
