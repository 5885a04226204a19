"""What the CPU paths share."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.similarity.blocks import ALIGNMENT, Threads, aligned, pair_blocks


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 33])
@pytest.mark.parametrize("size", [1, 4, 32])
def test_blocks_cover_every_pair_once(n, size):
    covered = np.zeros((n + size, n + size), int)
    for i, j in pair_blocks(n, size):
        covered[i : i + size, j : j + size] += 1
    assert (np.triu(covered[:n, :n]) == np.triu(np.ones((n, n)))).all()


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4, 17)])
def test_aligned_zeros(shape):
    array = aligned(shape, np.float32)
    assert array.ctypes.data % ALIGNMENT == 0
    assert array.shape == shape
    assert not array.any()
    array[...] = 1  # its memory is its own to the last element


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("items", [0, 1, 5, 100])
def test_shares_make_up_the_work(count, items):
    done = np.zeros(items, int)

    def add(share, amount):
        done[share] += amount

    with Threads(count) as pool:
        pool.run(add, np.arange(items), 3)
        assert pool.map(abs, [-2, 1]) == [2, 1]
    assert (done == 3).all()


def test_a_failure_in_a_share_is_raised():
    def fail(share):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Threads(3) as pool:
        pool.run(fail, np.arange(9))
