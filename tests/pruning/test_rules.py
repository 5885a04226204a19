"""The pruner against a plain walk over all pairs, and the laws its users rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lim_gpu.errors import InputError, UsageError
from lim_gpu.pruning.ranking import Ranking, count_to_keep
from lim_gpu.pruning.rules import every_n, leader, prune, random_choice, rank


def plain_greedy(matrix):
    """Section 2.1 of the paper, word for word."""
    n = len(matrix)
    pairs = sorted((-float(matrix[i][j]), i, j) for i in range(n) for j in range(i + 1, n))
    there, removed = set(range(n)), []
    for _negative, i, j in pairs:
        if i in there and j in there:
            there.remove(j)
            removed.append((j, i))
    return removed


def plain_leader(matrix, threshold):
    left, kept = list(range(len(matrix))), []
    while left:
        first = left.pop(0)
        kept.append(first)
        left = [k for k in left if not matrix[first][k] >= threshold]
    return kept


def symmetric(values):
    upper = np.triu(values, 1)
    return upper + upper.T + np.eye(len(values), dtype=values.dtype)


def pair_values(matrix, kept):
    return matrix[np.ix_(kept, kept)].astype(np.float64)[np.triu_indices(len(kept), 1)]


# Few distinct values, so that most pairs tie.
matrices = (
    st.integers(1, 24)
    .flatmap(lambda n: arrays(np.float32, (n, n), elements=st.sampled_from([-0.5, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0])))
    .map(symmetric)
)


@given(matrices)
def test_rank_equals_the_plain_walk(matrix):
    ranking = rank(matrix)
    expected = plain_greedy(matrix)
    assert list(zip(ranking.dropped.tolist(), ranking.covered_by.tolist(), strict=True)) == expected
    assert len(ranking.dropped) == len(matrix) - 1
    assert (np.diff(ranking.similarity) <= 0).all()


def test_rank_across_chunks_equals_the_plain_walk():
    matrix = symmetric(np.random.default_rng(0).integers(0, 60, (300, 300)).astype(np.float32))
    ranking = rank(matrix)
    assert list(zip(ranking.dropped.tolist(), ranking.covered_by.tolist(), strict=True)) == plain_greedy(matrix)


@given(matrices, st.sampled_from([-1.0, 0.0, 0.25, 0.6, 1.0]))
def test_leader_equals_the_plain_walk(matrix, threshold):
    assert leader(matrix, threshold).tolist() == plain_leader(matrix, threshold)


@given(matrices, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_smaller_keep_is_a_subset(matrix, a, b):
    ranking = rank(matrix)
    small, large = (set(ranking.keep(f).tolist()) for f in sorted((a, b)))
    assert small <= large


@given(matrices, st.floats(-1, 1))
def test_no_kept_pair_reaches_the_threshold(matrix, threshold):
    kept = rank(matrix).threshold(threshold)
    assert (pair_values(matrix, kept) < threshold).all()
    kept = leader(matrix, threshold)
    assert (pair_values(matrix, kept) < threshold).all()


@given(matrices, st.floats(0.01, 1), st.floats(-1, 1))
def test_of_a_budget_and_a_threshold_the_first_stops(matrix, fraction, threshold):
    ranking = rank(matrix)
    both = set(ranking.select(keep=fraction, threshold=threshold).tolist())
    assert both == set(ranking.keep(fraction).tolist()) | set(ranking.threshold(threshold).tolist())


def test_known_sequence_with_ties():
    matrix = symmetric(np.array([[0, 0.75, 0.75, 0.1], [0, 0, 0.75, 0.75], [0, 0, 0, 0.2], [0, 0, 0, 0]], np.float32))
    ranking = rank(matrix)
    assert ranking.dropped.tolist() == [1, 2, 3]
    assert ranking.covered_by.tolist() == [0, 0, 0]
    assert ranking.keep(0.5).tolist() == [0, 3]
    assert leader(matrix, 0.75).tolist() == [0, 3]


def test_greedy_and_leader_differ():
    # A chain: neighbours are alike, the ends are not.
    matrix = symmetric(np.array([[0, 0.8, 0.1], [0, 0, 0.9], [0, 0, 0]], np.float32))
    assert prune(matrix, threshold=0.75).tolist() == [0]
    assert prune(matrix, threshold=0.75, rule="leader").tolist() == [0, 2]


def test_pairs_that_cannot_be_compared_stay():
    matrix = np.full((4, 4), -np.inf, np.float32)
    matrix[0, 1] = matrix[2, 3] = 0.5
    ranking = rank(matrix)
    assert ranking.dropped.tolist() == [1, 3]
    assert ranking.select(keep_count=1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("n", "keep", "expected"), [(10, 0.1, 1), (11, 0.1, 2), (30, 0.1, 3), (1, 0.01, 1), (7, 1.0, 7)]
)
def test_count_to_keep(n, keep, expected):
    assert count_to_keep(n, keep) == expected


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_count_to_keep_is_the_exact_ceiling(n, percent):
    assert count_to_keep(n, percent / 100) == -(-n * percent // 100)


@pytest.mark.parametrize("keep", [0, 1, 0.0, 1.5, -0.1, float("nan"), "0.1", True])
def test_a_bad_keep_is_refused(keep):
    with pytest.raises(UsageError):
        count_to_keep(10, keep)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_bad_keep_count_is_refused(count):
    with pytest.raises(UsageError):
        count_to_keep(10, keep_count=count)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep": 0.1, "keep_count": 3},
        {"rule": "leader"},
        {"rule": "leader", "keep": 0.1},
        {"rule": "leader", "keep": 0.1, "threshold": 0.5},
        {"rule": "first", "threshold": 0.5},
        {"threshold": float("nan")},
        {"threshold": "0.5"},
    ],
)
def test_contradictory_calls_are_refused(arguments):
    with pytest.raises(UsageError):
        prune(np.eye(3), **arguments)


@pytest.mark.parametrize(
    "matrix", [np.ones((2, 3)), np.ones(4), np.ones((0, 0)), np.full((2, 2), np.nan), np.eye(2) * 1j]
)
def test_a_bad_matrix_is_refused(matrix):
    with pytest.raises(InputError):
        rank(matrix)


def test_torch_and_numpy_agree_and_one_slice_stays():
    matrix = symmetric(np.random.default_rng(1).random((20, 20)).astype(np.float32))
    assert (rank(torch.from_numpy(matrix)).dropped == rank(matrix).dropped).all()
    assert prune(np.ones((1, 1)), keep=0.1).tolist() == [0]
    assert isinstance(rank(np.ones((1, 1))), Ranking)


def test_threshold_is_compared_in_float64():
    value = np.float32(0.9)  # 0.89999998: below 0.9 in float64
    matrix = symmetric(np.array([[0, value], [0, 0]], np.float32))
    assert prune(matrix, threshold=0.9).tolist() == [0, 1]
    assert prune(matrix, threshold=float(value)).tolist() == [0]
    assert prune(matrix, threshold=0.9, rule="leader").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("n", "arguments", "expected"),
    [(10, {"keep": 0.3}, [0, 3, 6, 9]), (10, {"keep": 0.4}, [0, 3, 6, 9]), (10, {"keep_count": 4}, [0, 2, 5, 7])],
)
def test_every_n(n, arguments, expected):
    assert every_n(n, **arguments).tolist() == expected


def test_random_choice_is_seeded_and_of_equal_budget():
    first = random_choice(100, seed=3, keep=0.1)
    assert len(first) == 10
    assert len(set(first.tolist())) == 10
    assert (first == random_choice(100, seed=3, keep=0.1)).all()
    assert (first != random_choice(100, seed=4, keep=0.1)).any()


def test_five_thousand_slices_are_ranked():
    """In seconds; with another order of growth it would meet the limit of time that every test has."""
    values = np.random.default_rng(0).random((5000, 5000), dtype=np.float32)
    ranking = rank(values)
    assert len(set(ranking.dropped.tolist())) == 4999
    assert (np.diff(ranking.similarity) <= 0).all()


ALIKE = symmetric(np.array([[0, 0.9, 0.8, 0.7], [0, 0, 0.6, 0.5], [0, 0, 0, 0.4], [0, 0, 0, 0]], np.float32))


def test_bits_are_no_similarity():
    for call in (rank(ALIKE).threshold, lambda t: leader(ALIKE, t), lambda t: prune(ALIKE, threshold=t)):
        with pytest.raises(UsageError, match=r"threshold` 6 is no similarity.* 6 bits are 1 - 6 / 64"):
            call(6)
    assert rank(ALIKE).threshold(1.5).tolist() == [0, 1, 2, 3]  # MI has such
    assert rank(-10 * ALIKE).threshold(-4.5).tolist() == [0, 1, 2]  # the user's own scale


def test_a_ranking_keeps_a_number_of_slices_by_that_name():
    assert rank(ALIKE).keep(keep_count=3).tolist() == prune(ALIKE, keep_count=3).tolist() == [0, 2, 3]
    with pytest.raises(UsageError, match="or a `keep_count` of 3"):
        rank(ALIKE).keep(3)
    with pytest.raises(UsageError, match="a fraction, or a `keep_count`"):
        rank(ALIKE).keep()


@pytest.mark.parametrize(("keep", "word"), [(1, "ambiguous"), (0, "not a fraction"), (3, "not a fraction")])
def test_one_alone_is_ambiguous(keep, word):
    with pytest.raises(UsageError, match=word):
        count_to_keep(10, keep)
