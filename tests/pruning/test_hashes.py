"""Pruning hashes by levels against pruning their whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from lim_gpu import pruning
from lim_gpu.pruning.hashes import BLOCK, NOBODY, Search, leader_hashes, nearest_kept, rank_hashes
from lim_gpu.pruning.rules import leader, rank
from lim_gpu.similarity.hash import hamming_matrix, matrix_of_hashes

# Few bits set, so that distances are small and tie.
hashes = st.lists(st.sampled_from([0, 1, 3, 7, 15, 255, 1 << 63, 3 << 62, 2**64 - 1]), min_size=1, max_size=40).map(
    lambda values: np.array(values, dtype=np.uint64)
)


def near_copies(n, seed=0):
    """Families of hashes that differ by a few bits, as neighbouring slices do."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**63, max(1, n // 8), dtype=np.uint64)[np.sort(rng.integers(0, max(1, n // 8), n))]
    for _ in range(3):
        values ^= np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    return values


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile before a deadline counts."""
    leader_hashes(near_copies(BLOCK + 1), 6)
    nearest_kept(near_copies(3), np.array([0]))


def assert_equal_to_the_matrix(values):
    """Few hashes are walked at once; the steps of the levels must come to the same with as few."""
    expected = rank(matrix_of_hashes(values))
    with pytest.MonkeyPatch.context() as patch:
        for few in (pruning.hashes.FEW, 0):
            patch.setattr(pruning.hashes, "FEW", few)
            ranking = rank_hashes(values)
            np.testing.assert_array_equal(ranking.dropped, expected.dropped)
            np.testing.assert_array_equal(ranking.covered_by, expected.covered_by)
            np.testing.assert_array_equal(ranking.similarity, expected.similarity)


@given(hashes)
def test_rank_equals_the_rank_of_the_matrix(values):
    assert_equal_to_the_matrix(values)


@pytest.mark.parametrize("n", [1, 2, 33, BLOCK - 1, BLOCK + 5, 2 * BLOCK + 77])
def test_rank_beyond_one_block(n):
    assert_equal_to_the_matrix(near_copies(n))


@given(hashes, st.sampled_from([0, 1, 2, 6, 6.5, 64]))
def test_leader_equals_the_leader_of_the_matrix(values, bits):
    np.testing.assert_array_equal(leader_hashes(values, bits), leader(matrix_of_hashes(values), 1 - bits / 64))


def plain_sweep(values, numbers, remover, reach):
    """The walk, slice by slice; those that others dropped before still learn of a lower leader."""
    remover, leaders = remover.copy(), np.zeros(len(values), dtype=bool)
    for j in range(len(values)):
        reached = numbers[:j][leaders[:j] & (np.bitwise_count(values[:j] ^ values[j]) <= reach)]
        leaders[j] = remover[j] == NOBODY and not len(reached)
        remover[j] = min([remover[j], *reached[:1]])
    return remover


def dropped_before(n, seed=0):
    """Numbers that ascend, with gaps, and a third of the slices dropped by others before the sweep."""
    rng = np.random.default_rng(seed)
    numbers = np.cumsum(rng.integers(1, 9, n)).astype(np.int32)
    by = (rng.random(n) * (numbers - 1)).astype(np.int32)
    return numbers, np.where(rng.random(n) < 0.3, by, NOBODY).astype(np.int32)


def test_sweep_equals_the_plain_walk():
    values = near_copies(2 * BLOCK + 300) & np.uint64(0xFFFF)
    numbers, remover = dropped_before(len(values))
    found = torch.from_numpy(remover.copy())
    Search().sweep(torch.from_numpy(values.view(np.int64)), torch.from_numpy(numbers), found, 2)
    np.testing.assert_array_equal(found, plain_sweep(values, numbers, remover, 2))


@given(hashes, st.data())
def test_nearest_kept_ties_to_the_lowest(values, data):
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))))
    covered_by, distance = nearest_kept(values, kept)
    distances = hamming_matrix(values)[:, kept]
    expected = kept[np.argmin(distances, axis=1)]
    expected[kept] = kept
    np.testing.assert_array_equal(covered_by, expected)
    np.testing.assert_array_equal(distance, distances.min(axis=1))
