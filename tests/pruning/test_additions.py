"""Facility location and k-center against plain walks, exhaustive search and two libraries, and what they promise."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lim_gpu.errors import UsageError
from lim_gpu.pruning import additions
from lim_gpu.pruning.hashes import rank_hashes
from lim_gpu.pruning.rules import nearest_kept, prune, rank

RULES = ("facility", "k-center")


def symmetric(values):
    upper = np.triu(values, 1)
    return upper + upper.T + np.eye(len(values), dtype=values.dtype)


# Few distinct values, so that most pairs tie; and any, of which no sum ties but by chance.
LEVELS = [-0.5, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
ties = (
    st.integers(1, 14)
    .flatmap(lambda n: arrays(np.float32, (n, n), elements=st.sampled_from(LEVELS)))
    .map(symmetric)
)  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


def random_matrix(n, seed):
    return symmetric(np.random.default_rng(seed).random((n, n), dtype=np.float32))


def points(n, seed):
    """Points of a plane, and similarities that are less their distance."""
    at = np.random.default_rng(seed).random((n, 2))
    return 1 - np.linalg.norm(at[:, None] - at, axis=2)


def without_ties(matrix, seed):
    """Of two slices nearest to each other facility gains the same, unless they are not equally like themselves."""
    return matrix + np.diag(np.random.default_rng(seed + 1).random(len(matrix), dtype=matrix.dtype))


def covering(matrix, kept):
    """Exact: how alike the nearest of `kept` is to each slice."""
    return [max(Fraction(float(matrix[i][j])) for j in kept) for i in range(len(matrix))]


def plain_additions(matrix, rule):
    """The definition, word for word, in exact fractions."""
    n = len(matrix)
    added = [max(range(n), key=lambda j: (sum(covering(matrix, [j])), -j))]
    while len(added) < n:
        left = [j for j in range(n) if j not in added]
        if rule == "facility":
            added.append(max(left, key=lambda j: (sum(covering(matrix, [*added, j])), -j)))
        else:
            covered = covering(matrix, added)
            added.append(min(left, key=lambda j: (covered[j], j)))
    return added


def added_of(ranking):
    dropped = ranking.dropped.tolist()
    return [*(set(range(ranking.n)) - set(dropped)), *dropped[::-1]]


@pytest.mark.parametrize("rule", RULES)
@given(matrix=ties)
def test_a_ranking_is_the_definition_backwards(rule, matrix):
    ranking = rank(matrix, rule=rule)
    assert added_of(ranking) == plain_additions(matrix, rule)
    assert len(ranking.dropped) == len(matrix) - 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_than_one_block_of_rows(rule, dtype, monkeypatch):
    monkeypatch.setattr(additions, "BLOCK", 100)
    matrix = random_matrix(25, 3).astype(dtype)
    assert added_of(rank(matrix, rule=rule)) == plain_additions(matrix, rule)


@pytest.mark.parametrize("rule", RULES)
@given(matrix=ties)
def test_covered_by_is_the_nearest_of_those_added_before(rule, matrix):
    ranking = rank(matrix, rule=rule)
    added = added_of(ranking)
    for place, by, similarity in zip(ranking.dropped, ranking.covered_by, ranking.similarity, strict=True):
        before = added[: added.index(place)]
        assert by == max(before, key=lambda j: (matrix[place][j], -before.index(j)))
        assert similarity == matrix[place][by]


@pytest.mark.parametrize("rule", RULES)
@given(matrix=ties, a=st.floats(0.01, 1), b=st.floats(0.01, 1))
def test_a_smaller_keep_is_a_subset(rule, matrix, a, b):
    ranking = rank(matrix, rule=rule)
    small, large = (ranking.keep(fraction).tolist() for fraction in sorted((a, b)))
    assert set(small) <= set(large)
    assert prune(matrix, keep=a, rule=rule).tolist() == ranking.keep(a).tolist()


@given(matrix=ties, threshold=st.floats(-1, 1))
def test_k_center_covers_what_it_drops_and_stops_where_one_less_would_not(matrix, threshold):
    ranking = rank(matrix, rule="k-center")
    assert (np.diff(ranking.similarity) <= 0).all()
    kept = ranking.threshold(threshold)
    covered_by, similarity = nearest_kept(matrix, kept)
    dropped = np.setdiff1d(np.arange(len(matrix)), kept)
    assert (similarity[dropped].astype(np.float64) >= threshold).all()
    assert set(covered_by.tolist()) <= set(kept.tolist())
    if len(kept) > 1:  # of its own sequence no shorter beginning does
        fewer = added_of(ranking)[: len(kept) - 1]
        assert min(covering(matrix, fewer)[j] for j in set(range(len(matrix))) - set(fewer)) < threshold


@pytest.mark.parametrize("rule", RULES)
@given(seed=seeds)
def test_slices_in_another_order_are_the_same_choice(rule, seed):
    matrix = without_ties(points(15, seed), seed)
    turned = np.random.default_rng(seed).permutation(15)
    ranking, other = rank(matrix, rule=rule), rank(matrix[np.ix_(turned, turned)], rule=rule)
    assert other.renamed(turned).dropped.tolist() == ranking.dropped.tolist()


@pytest.mark.parametrize("rule", RULES)
@given(matrix=ties, seed=seeds)
def test_an_order_says_which_slice_comes_first_of_equal_ones(rule, matrix, seed):
    order = np.random.default_rng(seed).permutation(len(matrix))
    ranking = rank(matrix, order, rule=rule)
    expected = rank(matrix[np.ix_(order, order)], rule=rule).renamed(order)
    assert ranking.dropped.tolist() == expected.dropped.tolist()
    assert ranking.covered_by.tolist() == expected.covered_by.tolist()


@given(seed=seeds, k=st.integers(1, 4))
def test_k_center_is_at_most_twice_as_far_as_the_best_choice(seed, k):
    matrix = points(9, seed)
    radius = [1 - float(min(covering(matrix, kept))) for kept in combinations(range(9), k)]
    found = 1 - float(min(covering(matrix, rank(matrix, rule="k-center").keep(keep_count=k))))
    assert min(radius) <= found + 1e-12
    assert found <= 2 * min(radius) + 1e-12


@given(seed=seeds, k=st.integers(1, 4))
def test_facility_reaches_its_share_of_the_best_choice(seed, k):
    matrix = random_matrix(9, seed)
    best = max(float(sum(covering(matrix, kept))) for kept in combinations(range(9), k))
    found = float(sum(covering(matrix, rank(matrix, rule="facility").keep(keep_count=k))))
    assert (1 - 1 / np.e) * best <= found <= best + 1e-12


def test_facility_is_apricots(monkeypatch):
    apricot = pytest.importorskip("apricot")
    plain = lambda *_signature, **_how: lambda function: function  # noqa: E731  (compiling takes it half a minute)
    monkeypatch.setattr("apricot.functions.facilityLocation.njit", plain)
    matrix = without_ties(random_matrix(25, 0), 0)
    chosen = apricot.FacilityLocationSelection(25, metric="precomputed", optimizer="naive").fit(matrix).ranking
    assert added_of(rank(matrix, rule="facility")) == chosen.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:submodlib")
@pytest.mark.parametrize("seed", range(3))
def test_facility_is_submodlibs(seed):
    submodlib = pytest.importorskip("submodlib")
    matrix = without_ties(random_matrix(60, seed), seed)
    function = submodlib.FacilityLocationFunction(n=60, mode="dense", sijs=matrix, separate_rep=False)
    chosen = [j for j, _gain in function.maximize(budget=59, optimizer="NaiveGreedy", show_progress=False)]
    assert added_of(rank(matrix, rule="facility"))[:59] == chosen


@pytest.mark.parametrize("rule", RULES)
@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=24))
def test_hashes_are_ranked_as_their_matrix(rule, values):
    hashes = np.array(values, dtype=np.uint64)
    bits = np.array([[(a ^ b).bit_count() for b in values] for a in values])
    expected = rank((1 - bits / 64).astype(np.float32), rule=rule)
    ranking = rank_hashes(hashes, rule=rule)
    for name in ("dropped", "covered_by", "similarity"):
        np.testing.assert_array_equal(getattr(ranking, name), getattr(expected, name))


@pytest.mark.parametrize("rule", RULES)
def test_groups_that_cannot_be_compared_keep_one_slice_each(rule):
    group = np.array([0, 1, 0, 1, 2, 0, 0, 1])
    matrix = np.where(group[:, None] == group, random_matrix(8, 0), -np.inf).astype(np.float32)
    ranking = rank(matrix, rule=rule)
    assert len(ranking.dropped) == 5
    assert sorted(group[ranking.keep(keep_count=1)].tolist()) == [0, 1, 2]
    assert np.isfinite(ranking.similarity).all()
    assert rank(np.full((3, 3), -np.inf), rule=rule).keep(keep_count=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("rule", RULES)
def test_sums_do_not_depend_on_the_scale_or_a_shift(rule):
    matrix = without_ties(points(30, 5), 5)
    expected = rank(matrix, rule=rule).dropped.tolist()
    for scale, shift in ((2.0**-900, 0), (2.0**60, 0), (0.25, -8)):
        assert rank(matrix * scale + shift, rule=rule).dropped.tolist() == expected


@pytest.mark.parametrize("rule", RULES)
def test_any_array_library_gives_the_same(rule):
    matrix = random_matrix(20, 1)
    frozen = matrix.copy()
    frozen.setflags(write=False)
    expected = rank(matrix, rule=rule).dropped.tolist()
    for other in (frozen, matrix.T, torch.from_numpy(matrix), matrix.tolist()):
        assert rank(other, rule=rule).dropped.tolist() == expected


def test_what_a_rule_cannot_do_is_refused():
    matrix = random_matrix(5, 0)
    with pytest.raises(UsageError, match="facility rule takes `keep`.* k-center"):
        prune(matrix, threshold=0.5, rule="facility")
    with pytest.raises(UsageError, match="facility"):
        rank(matrix, rule="facility").threshold(0.5)
    with pytest.raises(UsageError, match="no sequence"):
        rank(matrix, rule="leader")
    with pytest.raises(UsageError, match="k-centre.* Did you mean k-center"):
        rank(matrix, rule="k-centre")


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_a_gpu_gives_the_same_sequence(rule):
    for n in (1, 2, 33, 700):
        for matrix in (random_matrix(n, n), symmetric(np.random.default_rng(n).choice(LEVELS, (n, n)))):
            own = matrix.astype(np.float32)
            expected, found = rank(own, rule=rule), rank(torch.from_numpy(own).cuda(), rule=rule)
            for name in ("dropped", "covered_by", "similarity"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
