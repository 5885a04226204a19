"""Rules that add one slice after another: facility location and k-center. What they add last is the first that goes.

Both begin with the medoid, the slice that is most alike to all together. A slice is covered by its similarity to the
nearest one that was added, and the next is

    facility   the one by which the sum of all coverings grows most: at least 1 - 1/e of what any choice of as many
               slices reaches (Nemhauser et al. 1978)
    k-center   the one that is covered worst: of distances, at most twice the best radius (Gonzalez 1985)

Ties go to the lowest place. Sums are of whole numbers: a similarity is rounded to one of at least 2^(62 - 2b) equal
steps between the lowest and the highest of the matrix, b the bits of n (2^44 steps for 500 slices, finer than float32).
So they are the same in any order, on every device. The steps here are torch's wherever the similarities lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lim_gpu.pruning.ranking import Indices, Ranking

Rows = Callable[[torch.Tensor], torch.Tensor]  # similarities (k, n) of the slices at k places to all, symmetric
BLOCK = 1 << 20  # similarities looked at together
LAST_BITS = 62  # of a sum of n steps of n slices
NEVER = -torch.inf  # the similarity of a pair that cannot be compared
ADDED = -1  # what a slice can gain that was added


def add(rule: str, rows: Rows, n: int, device: torch.device, order: Indices | None = None) -> Ranking:
    """The ranking of `n` slices by "facility" or "k-center": its `dropped` is the order of addition reversed.

    rows    similarities of slices to all, in float32 or float64, on `device`
    order   a permutation (n,) of the slices, by default as they come: ties are those of the places in it

    `covered_by` is the nearest that was added before, ties to the one added first, `similarity` that to it: of k-center
    it never increases. Slices that none before can stand for, for their pairs are -inf, are no part of the sequence;
    facility adds them as early as it can. O(n²) time for k-center, about O(n² log n) for facility; little memory.
    """
    if order is not None:
        return add(rule, _in_order(rows, torch.from_numpy(order).to(device)), n, device).renamed(order)
    added, nearest, similarity = {"facility": _facility, "k-center": _k_center}[rule](rows, n, device)
    alone = np.flatnonzero(similarity == NEVER)[-1] + 1  # the first is one of them
    sequence = slice(n - 1, alone - 1, -1)
    return Ranking(n, added[sequence], similarity[sequence].astype(np.float64), nearest[sequence], rule)


Additions = tuple[Indices, Indices, "np.ndarray[tuple[int], np.dtype[np.floating]]"]


class _Covered:
    """Who covers whom (n,), and the additions in their order: places, nearest before, similarity to it."""

    def __init__(self, n: int, like: torch.Tensor) -> None:
        self.similarity = like.new_full((n,), NEVER)
        self.nearest = torch.zeros(n, dtype=torch.int64, device=like.device)
        self._added: list[tuple[torch.Tensor, ...]] = []

    def add(self, place: torch.Tensor) -> None:
        """Take down that `place` (1,) is next, and what covers it so far."""
        self._added.append((place, self.nearest[place], self.similarity[place]))

    def cover(self, better: torch.Tensor, place: torch.Tensor, similarity: torch.Tensor) -> None:
        """Where `better` (n,) says so, `place` covers from now on, by `similarity` (n,)."""
        self.similarity = torch.where(better, similarity, self.similarity)
        self.nearest = torch.where(better, place, self.nearest)

    def additions(self) -> Additions:
        added, nearest, similarity = (torch.cat(column).cpu().numpy() for column in zip(*self._added, strict=True))
        return added, nearest, similarity


def _facility(rows: Rows, n: int, device: torch.device) -> Additions:
    steps = _Steps.of(rows, n, device)
    gain = _sums(rows, steps, n, device)
    sure = torch.zeros(n, dtype=torch.int64, device=device)  # how well each is covered, in steps
    covered: _Covered | None = None
    for _ in range(n):
        place = gain.argmax().view(1)  # the first of equal ones
        own = rows(place)[0]
        covered = covered or _Covered(n, own)
        covered.add(place)
        now = torch.maximum(sure, steps(own))
        for changed in _blocks(torch.nonzero(now > sure).flatten(), n):
            before, after = sure[changed], now[changed]
            no_more = steps(rows(changed)).clamp_(before[:, None], after[:, None])  # what others gained there until now
            gain -= no_more.sum(dim=0) - before.sum()
        covered.cover(now > sure, place, own)
        sure = now
        gain[place] = ADDED
    assert covered is not None  # n is at least 1
    return covered.additions()


def _k_center(rows: Rows, n: int, device: torch.device) -> Additions:
    place = _sums(rows, _Steps.of(rows, n, device), n, device).argmax().view(1)
    covered: _Covered | None = None
    for _ in range(n):
        own = rows(place)[0]
        covered = covered or _Covered(n, own)
        covered.add(place)
        covered.cover(own > covered.similarity, place, own)
        covered.similarity[place] = torch.inf  # is added: nothing waits for it
        place = covered.similarity.argmin().view(1)
    assert covered is not None
    return covered.additions()


@dataclass(frozen=True)
class _Steps:
    """A similarity as a whole number >= 0.

    A pair that cannot be compared is 0, any other `floor` and more, by which no slice less is covered at all whatever
    the others gain.
    """

    low: float
    scale: float  # a power of two: multiplying by it is exact
    floor: int  # n times the range

    @classmethod
    def of(cls, rows: Rows, n: int, device: torch.device) -> _Steps:
        """For the similarities of `rows`, so fine that what n slices gain at most is below 2^63."""
        low, high = _range(rows, n, device)
        bits = LAST_BITS - 2 * n.bit_length()
        exponent = math.frexp(high - low)[1]  # the range is at most two to this
        return cls(low, 2.0 ** min(bits - exponent, 1000), n << bits)

    def __call__(self, similarity: torch.Tensor) -> torch.Tensor:
        above = ((similarity.double() - self.low) * self.scale).round_().long()
        return torch.where(similarity > NEVER, above + self.floor, 0)


def _range(rows: Rows, n: int, device: torch.device) -> tuple[float, float]:
    """The lowest and the highest similarity; zeros where no pair can be compared."""
    low, high = math.inf, -math.inf
    for places in _blocks(torch.arange(n, device=device), n):
        values = rows(places)
        low = min(low, float(torch.where(values > NEVER, values, torch.inf).min()))
        high = max(high, float(values.max()))
    return (low, high) if high > -math.inf else (0.0, 0.0)


def _sums(rows: Rows, steps: _Steps, n: int, device: torch.device) -> torch.Tensor:
    """What each slice covers alone (n,)."""
    total = torch.zeros(n, dtype=torch.int64, device=device)
    for places in _blocks(torch.arange(n, device=device), n):
        total += steps(rows(places)).sum(dim=0)
    return total


def _blocks(places: torch.Tensor, n: int) -> Iterator[torch.Tensor]:
    """The places, so many at a time that their rows are about BLOCK similarities."""
    return iter(places.split(max(1, BLOCK // n))) if len(places) else iter(())


def _in_order(rows: Rows, order: torch.Tensor) -> Rows:
    return lambda places: rows(order[places])[:, order]
