"""Pruning by HASH without a matrix: a million hashes take their own memory and some bytes each.

Distances are whole bits, so the greedy sequence falls into levels: first all pairs at distance 0, then 1, and so on.
When a level begins no pair that is left is nearer, and within it pairs are taken by (i, j): the slices are walked in
order, and each one left drops every later one at that distance. That is the walk of the leader rule with the level as
its threshold, and the result is that of `lim_gpu.rank` and `leader` on the whole matrix.

Few slices take part in a level. Each keeps the nearest earlier one; it is a candidate where that one is as far as the
level, and looks again where that one has gone. A candidate whose nearest is no candidate goes. The others wait for what
becomes of their nearest: they are swept, block by block. In all, 1.3 times the n² / 2 pairs are compared (counted for
random hashes, walks and Gray codes).

Few hashes, as of a volume, are walked as the levels say in one compiled loop: it costs less than the steps of a level.

The steps are torch's on either device. What compares hashes is a `Search`: Numba here, kernels/hash.cu on a GPU.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lim_gpu.compiled import compiled
from lim_gpu.pruning.additions import add
from lim_gpu.pruning.ranking import Indices, Ranking
from lim_gpu.similarity.blocks import Threads
from lim_gpu.similarity.hash import BITS, distance

if TYPE_CHECKING:
    from lim_gpu.similarity.cuda.hash import Search as SearchOnGpu

BLOCK = 1024  # slices that are settled among themselves before the later ones are compared with them
TILE = 2048  # hashes of a pool that stay in the L1 cache
FEW = 1024  # hashes that are walked level by level: at most n² / 2 comparisons a level, some microseconds
ALONE = 1 << 22  # comparisons that one thread has done before others have started
NOBODY = 2**31 - 1  # who drops a slice that stays
NO_BITS = 255  # where there is nothing to be near to

Hashes = NDArray[np.uint64] | torch.Tensor  # a tensor holds the same bits as int64


def rank_hashes(hashes: Hashes, search: Search | SearchOnGpu | None = None, *, rule: str = "greedy") -> Ranking:
    """The whole removal sequence of hashes (n,), n >= 1; equal to `lim_gpu.rank(1 - distances / 64, rule=rule)`.

    hashes: uint64, or the same bits in a torch tensor int64, on whose device the work is done. search: what compares
    them for the rule greedy, in place of that device.
    """
    if rule == "greedy":
        return _greedy(hashes, search or search_for(hashes))
    values = _as_tensor(hashes)
    return add(rule, partial(_similarities, values), len(values), values.device)


def _similarities(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of the hashes at k places to all n, float32 (k, n): 1 - bits / 64. Bits are counted in ever wider fields."""
    v = values[places, None] ^ values
    v -= (v >> 1) & 0x5555555555555555
    v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0F
    return 1 - (v * 0x0101010101010101 >> 56).float() / BITS


def _greedy(hashes: Hashes, search: Search | SearchOnGpu) -> Ranking:
    values = _as_tensor(hashes)
    n = len(values)
    if n <= FEW and isinstance(search, Search):
        removed, remover, bits_of = _walk(_numpy(values))
        return Ranking(n, removed, 1 - bits_of / BITS, remover)
    left = torch.arange(n, device=values.device)
    nearest, bits = search.nearest(values, values, left)  # of the earlier ones: no farther than it is now
    gone = torch.zeros(n, dtype=torch.bool, device=values.device)
    removals = []
    levels = np.empty(0)
    for level in range(BITS + 1):
        if len(left) == 1:
            break
        goes = _level(level, values, left, gone, nearest, bits, search)
        if len(goes):
            goes = goes[torch.argsort(nearest[goes] * n + goes)]  # pairs by (i, j): the slice that stays first
            removals.append(torch.stack([goes, nearest[goes]]))
            levels = np.concatenate([levels, np.full(len(goes), 1 - level / BITS)])
            bits[goes] = NO_BITS
            gone[goes] = True
            left = _where(~gone)
    sequence = torch.cat([*removals, left.new_empty((2, 0))], dim=1).cpu().numpy()
    return Ranking(n, sequence[0], levels, sequence[1])


def _level(
    level: int,
    values: torch.Tensor,
    left: torch.Tensor,
    gone: torch.Tensor,
    nearest: torch.Tensor,
    bits: torch.Tensor,
    search: Search | SearchOnGpu,
) -> torch.Tensor:
    """The slices that go at `level`, ascending; `nearest` then holds who drops each.

    values int64, nearest int64, bits uint8, gone bool: (n,). left int64: the slices that are not gone, ascending.

    At the start of every level, for a slice that is left: no earlier one that is left is nearer than its `bits`, which
    are `level` or more; its `nearest` is the first at that distance, or has gone since.

        candidates = slices with bits == level
        look again for those whose nearest has gone; some are farther now, and candidates no more
        who is no candidate stays: a candidate whose nearest is one of those goes, dropped by it
        waiting = candidates whose nearest is a candidate, which may go itself
        of each that waits, the first at `level` among those that are no candidates drops it
        sweep: the waiting in order; each that nobody has dropped stays, and drops the later ones at `level`
            (who is dropped twice counts for the lower of the two)
        who waited and stays has lost its nearest: bits = level + 1
    """
    candidates = _where(bits == level)
    stale = candidates[gone[nearest[candidates]]]
    place, bits[stale] = search.nearest(values[stale], values[left], torch.searchsorted(left, stale))
    nearest[stale] = left[place]
    candidates = candidates[bits[candidates] == level]
    may_go = torch.zeros_like(gone)
    may_go[candidates] = True
    waiting = candidates[may_go[nearest[candidates]]]
    others = left[~may_go[left]]
    place, apart = search.nearest(values[waiting], values[others], torch.searchsorted(others, waiting))
    remover = torch.where(apart == level, others[place], NOBODY).int()
    search.sweep(values[waiting], waiting.int(), remover, level)
    stays = remover == NOBODY  # its nearest is gone: looked for again at the next level
    bits[waiting[stays]] = level + 1
    nearest[waiting[~stays]] = remover[~stays].long()
    return candidates[bits[candidates] == level]


def leader_hashes(hashes: Hashes, bits: float) -> Indices:
    """The leader rule over hashes (n,): kept indices, ascending; a slice goes at a distance <= `bits` to a kept one."""
    values = _as_tensor(hashes)
    numbers = torch.arange(len(values), dtype=torch.int32, device=values.device)
    remover = torch.full_like(numbers, NOBODY)
    search_for(hashes).sweep(values, numbers, remover, int(np.floor(bits)))
    return _where(remover == NOBODY).cpu().numpy()


def nearest_kept(
    hashes: Hashes, kept: Indices, search: Search | SearchOnGpu | None = None
) -> tuple[Indices, NDArray[np.uint8]]:
    """The kept slice nearest to each of n hashes, ties to the lowest index, and its distance in bits. Kept: itself.

    search: as of `rank_hashes`.
    """
    values = _as_tensor(hashes)
    pool = values[torch.from_numpy(kept).to(values.device)]
    nearest, bits = (search or search_for(hashes)).nearest(values, pool, torch.full_like(values, len(kept)))
    covered_by = kept[nearest.cpu().numpy()]
    covered_by[kept] = kept
    return covered_by, bits.cpu().numpy()


def _where(condition: torch.Tensor) -> torch.Tensor:
    return torch.nonzero(condition).flatten()


def _as_tensor(hashes: Hashes) -> torch.Tensor:
    if isinstance(hashes, torch.Tensor):
        return hashes
    return torch.from_numpy(np.ascontiguousarray(hashes).view(np.int64))


def search_for(hashes: Hashes) -> Search | SearchOnGpu:
    """What compares hashes where they lie."""
    if isinstance(hashes, torch.Tensor) and hashes.is_cuda:
        from lim_gpu.similarity.cuda.hash import Search as SearchOnGpu

        return SearchOnGpu()
    return Search()


class Search:
    """What pruning asks of hashes int64 on the CPU: the nearest of many, and a sweep."""

    def nearest(
        self, queries: torch.Tensor, pool: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of the first before[q] of `pool` (b,) for queries (a,), ties to the lowest place.

        before: ascending whole numbers (a,), 0..b. Returns the place int64 (a,) and the bits uint8 (a,); 255 for none.
        """
        nearest = torch.full((len(queries),), NO_BITS << 32)
        with Threads(1 if len(queries) * len(pool) < ALONE else None) as threads:
            threads.run(
                _nearest, np.arange(len(queries)), _numpy(queries), _numpy(pool), before.numpy(), nearest.numpy()
            )
        return nearest & 0xFFFFFFFF, (nearest >> 32).to(torch.uint8)

    def sweep(self, hashes: torch.Tensor, numbers: torch.Tensor, remover: torch.Tensor, reach: int) -> None:
        """Walk hashes (n,) in order; each one left drops every later one within `reach` bits.

        numbers  int32 (n,), ascending: what stands for each in `remover`
        remover  int32 (n,): NOBODY for those that are left; gets the number of the first that drops each
        """
        n, values, number, by = len(hashes), _numpy(hashes), numbers.numpy(), remover.numpy()
        with Threads(1 if n**2 < ALONE else None) as threads:
            for first in range(0, n, BLOCK):
                last = min(first + BLOCK, n)
                leaders = first + np.flatnonzero(_settle(values, number, first, last, reach, by))
                threads.run(_drop, np.arange(last, n), values, number, leaders, reach, by)


def _numpy(hashes: torch.Tensor) -> Any:
    return hashes.numpy().view(np.uint64)


@compiled()
def _walk(hashes):  # type: ignore[no-untyped-def]
    """The greedy sequence of uint64 (n,), level by level: who goes, who drops it, at how many bits; int64 (n - 1,)."""
    n = len(hashes)
    removed, remover, bits = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64), np.empty(n - 1, np.int64)
    left, pool, gone, level = np.arange(n), hashes.copy(), 0, 0
    while gone < n - 1:
        stays, beyond = np.ones(len(left), np.bool_), NO_BITS
        for i in range(len(left)):
            for j in range(i + 1, len(left) if stays[i] else 0):
                apart = distance(pool[i], pool[j])
                if stays[j] and apart == level:
                    removed[gone], remover[gone], bits[gone] = left[j], left[i], level
                    stays[j], gone = False, gone + 1
                elif stays[j]:
                    beyond = min(beyond, apart)
        left, pool, level = left[stays], pool[stays], beyond
    return removed, remover, bits


@compiled()
def _nearest(share, queries, pool, before, nearest):  # type: ignore[no-untyped-def]
    """The nearest of the first before[q] hashes of `pool` for the queries q in `share`, ties to the lowest place.

    share    consecutive numbers of queries (k,): the inner loop has no gaps
    queries  uint64 (a,)
    pool     uint64 (b,)
    before   int64 (a,), ascending
    nearest  int64 (a,): bits << 32 | place, so the nearest and lowest is the least number; lowered where one is nearer
    """
    first, last = share[0], share[-1] + 1
    for start in range(0, before[last - 1], TILE):
        for q in range(first, last):
            own, best = queries[q], nearest[q]
            for k in range(start, min(start + TILE, before[q])):
                best = min(best, distance(own, pool[k]) << 32 | k)
            nearest[q] = best


@compiled()
def _settle(hashes, numbers, first, last, reach, remover):  # type: ignore[no-untyped-def]
    """Walk `first` to `last` - 1 in order: bool (last - first,), which of them are leaders; the others get a remover.

    hashes   uint64 (n,)
    numbers  int32 (n,), ascending: what stands for each in `remover`
    remover  int32 (n,): NOBODY, or the lowest number so far that drops each; lowered
    """
    leads = remover[first:last] == NOBODY
    for i in range(first, last):
        if leads[i - first]:
            for j in range(i + 1, last):
                if distance(hashes[i], hashes[j]) <= reach:
                    remover[j] = min(remover[j], numbers[i])
                    leads[j - first] = False
    return leads


@compiled()
def _drop(share, hashes, numbers, leaders, reach, remover):  # type: ignore[no-untyped-def]
    """What the leaders drop among the later slices in `share`: their remover is lowered to the leader's number.

    share    consecutive indices (k,), later than every leader
    leaders  int64 (l,), indices, ascending
    The other arrays are those of `_settle`.
    """
    first, last = share[0], share[-1] + 1
    for i in leaders:
        own, number = hashes[i], numbers[i]
        for j in range(first, last):
            if distance(own, hashes[j]) <= reach:
                remover[j] = min(remover[j], number)
