"""Pruning by HASH without a matrix: a million hashes take their own memory and some bytes each.

Distances are whole bits, so the greedy sequence falls into levels: first all pairs at distance 0, then 1, and so on.
When a level begins no pair that is left is nearer, and within it pairs are taken by (i, j): the slices are walked in
order, and each one left drops every later one at that distance. That is the walk of the leader rule with the level as
its threshold. One sweep serves both, and the result is that of `lim_gpu.rank` and `leader` on the whole matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lim_gpu.pruning import Indices, Ranking
from lim_gpu.similarity.blocks import Threads, compiled
from lim_gpu.similarity.hash import BITS, distance

BLOCK = 1024  # slices that are settled among themselves before the later ones are compared with them


def rank_hashes(hashes: NDArray[np.uint64]) -> Ranking:
    """The whole removal sequence of hashes (n,), n >= 1; equal to `lim_gpu.rank(1 - distances / 64)`."""
    n = len(hashes)
    left = np.arange(n)
    dropped, covered_by, levels = [], [], []
    for level in range(BITS + 1):
        if len(left) == 1:
            break
        remover = _sweep(hashes[left], level)
        gone = np.flatnonzero(remover >= 0)
        gone = gone[np.lexsort((gone, remover[gone]))]  # pairs by (i, j): the slice that stays first
        dropped.append(left[gone])
        covered_by.append(left[remover[gone]])
        levels.append(np.full(len(gone), 1 - level / BITS))
        left = left[remover < 0]
    empty = [np.empty(0, dtype=np.int64)]
    return Ranking(
        n,
        np.concatenate(dropped + empty),
        np.concatenate([*levels, np.empty(0)]),
        np.concatenate(covered_by + empty),
    )


def leader_hashes(hashes: NDArray[np.uint64], bits: float) -> Indices:
    """The leader rule over hashes (n,): kept indices, ascending; a slice goes at a distance <= `bits` to a kept one."""
    return np.flatnonzero(_sweep(hashes, int(np.floor(bits))) < 0)


def nearest_kept(hashes: NDArray[np.uint64], kept: Indices) -> tuple[Indices, NDArray[np.uint8]]:
    """The kept slice nearest to each of n hashes, ties to the lowest index, and its distance in bits. Kept: itself."""
    nearest = np.zeros(len(hashes), dtype=np.int64)
    bits = np.empty(len(hashes), dtype=np.uint8)
    with Threads() as pool:
        pool.run(_nearest, np.arange(len(hashes)), hashes, hashes[kept], nearest, bits)
    covered_by = kept[nearest]
    covered_by[kept] = kept
    return covered_by, bits


def _sweep(hashes: NDArray[np.uint64], reach: int) -> Indices:
    """Walk hashes (m,) in order; each one left drops every later one within `reach` bits. Who dropped it, or -1."""
    remover = np.full(len(hashes), -1, dtype=np.int64)
    with Threads() as pool:
        for start in range(0, len(hashes), BLOCK):
            stop = min(start + BLOCK, len(hashes))
            _settle(hashes, start, stop, reach, remover)
            leaders = start + np.flatnonzero(remover[start:stop] < 0)
            pool.run(_drop, np.arange(stop, len(hashes)), hashes, leaders, reach, remover)
    return remover


@compiled()
def _settle(hashes, start, stop, reach, remover):  # type: ignore[no-untyped-def]
    for j in range(start, stop):
        if remover[j] < 0:
            for i in range(start, j):
                if remover[i] < 0 and distance(hashes[i], hashes[j]) <= reach:
                    remover[j] = i
                    break


@compiled()
def _drop(share, hashes, leaders, reach, remover):  # type: ignore[no-untyped-def]
    """Leaders ascend, and the first that reaches a slice drops it. `share` is a range: its inner loop has no gaps."""
    first, last = share[0], share[-1] + 1
    for i in leaders:
        own = hashes[i]
        for j in range(first, last):
            if distance(own, hashes[j]) <= reach and remover[j] < 0:
                remover[j] = i


@compiled()
def _nearest(share, hashes, kept, nearest, bits):  # type: ignore[no-untyped-def]
    for j in share:
        best, at = np.int64(BITS + 1), 0
        for k in range(len(kept)):
            apart = distance(kept[k], hashes[j])
            if apart < best:
                best, at = apart, k
        nearest[j], bits[j] = at, best
