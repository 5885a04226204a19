"""A removal sequence of slices, and what a budget and a threshold leave of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError
from lim_gpu.pruning.checks import check_similarity, check_takes_threshold, checked_threshold

Indices = NDArray[np.int64]


def count_to_keep(n: int, keep: float | None = None, keep_count: int | None = None) -> int:
    """How many of `n` slices stay: max(1, ceil(keep * n - 1e-9)), or `keep_count`, at most n; n when neither is given.

    Raises UsageError for a fraction outside (0, 1], an integer fraction (1 could mean all or one), or both at once.
    """
    if keep is not None and keep_count is not None:
        raise UsageError("`keep` and `keep_count` exclude each other. Give one of them")
    if keep_count is not None:
        if isinstance(keep_count, bool) or not isinstance(keep_count, Integral) or keep_count < 1:
            raise UsageError(f"`keep_count` {keep_count!r} is not a whole number. Give 1 or more")
        return min(n, int(keep_count))
    if keep is None:
        return n
    if isinstance(keep, Integral) and keep == 1:
        raise UsageError("`keep` 1 is ambiguous. Give 1.0 to keep all, or a `keep_count` of 1 to keep one slice")
    if isinstance(keep, Integral) or not isinstance(keep, Real) or not 0 < keep <= 1:
        number = f", or a `keep_count` of {keep}" if isinstance(keep, Integral) and keep > 1 else ""
        raise UsageError(f"`keep` {keep!r} is not a fraction. Give 0 < F <= 1, such as 0.1{number}")
    return min(n, max(1, ceil(float(keep) * n - 1e-9)))


@dataclass(frozen=True, eq=False)
class Ranking:
    """The one removal sequence of a matrix; every keep and every threshold is a prefix of it.

    n           number of slices
    dropped     (m,) int64, slices in order of removal; m = n - 1 unless pairs of similarity -inf end the sequence
    similarity  (m,) float64, similarity of the pair that removed each; never increasing, but of facility
    covered_by  (m,) int64, the partner that stayed at that moment
    rule        "greedy", "facility" or "k-center", see `rank`
    """

    n: int
    dropped: Indices
    similarity: NDArray[np.float64]
    covered_by: Indices
    rule: str = "greedy"

    def __repr__(self) -> str:
        ends = f" at similarity {self.similarity[0]:g} to {self.similarity[-1]:g}" if len(self.dropped) else ""
        return f"Ranking({self.n} slice{'s' if self.n != 1 else ''}, {len(self.dropped)} removals{ends})"

    def _repr_html_(self) -> str:
        """For notebooks: how long each slice stays, as a bar."""
        from lim_gpu.strip import bar

        shades = np.full(self.n, 255, dtype=np.uint8)
        shades[self.dropped] = 255 * np.arange(len(self.dropped)) // max(1, len(self.dropped))
        return bar(repr(self), shades, "one shade a slice, in their order: the brighter, the longer it stays")

    def keep(self, fraction: float | None = None, *, keep_count: int | None = None) -> Indices:
        """Sorted indices (k,) when the fraction `fraction` of the slices stays, or `keep_count` of them.

        k is max(1, ceil(fraction n - 1e-9)). Raises UsageError for neither, both, or what is no fraction.
        """
        if fraction is None and keep_count is None:
            raise UsageError("nothing says how many stay. Give a fraction, or a `keep_count`")
        return self.select(keep=fraction, keep_count=keep_count)

    def threshold(self, similarity: float) -> Indices:
        """Sorted indices when every slice goes whose removal similarity is >= `similarity` (HASH: 1 - bits/64).

        Raises UsageError for a number that is no similarity, such as bits, and for the rule facility.
        """
        return self.select(threshold=similarity)

    def select(
        self, keep: float | None = None, keep_count: int | None = None, threshold: float | None = None
    ) -> Indices:
        """Sorted indices for a budget, a threshold or both: the first that stops the removal, stops it."""
        return self.survivors(self.stop(keep, keep_count, threshold))

    def stop(self, keep: float | None = None, keep_count: int | None = None, threshold: float | None = None) -> int:
        """How many removals a budget and a threshold allow, 0..m."""
        removals = len(self.dropped)
        if keep is not None or keep_count is not None or threshold is None:
            removals = min(removals, self.n - count_to_keep(self.n, keep, keep_count))
        if threshold is not None:
            check_takes_threshold(self.rule)
            limit = checked_threshold(threshold)
            check_similarity(limit, self.similarity)
            removals = min(removals, int(np.count_nonzero(self.similarity >= limit)))
        return removals

    def survivors(self, removals: int) -> Indices:
        """Sorted indices of the slices that stay after the first `removals` removals."""
        stays = np.ones(self.n, dtype=bool)
        stays[self.dropped[:removals]] = False
        return np.flatnonzero(stays)

    def renamed(self, names: Indices) -> Ranking:
        """The same ranking of slices that are called names[0], names[1], ..."""
        return Ranking(self.n, names[self.dropped], self.similarity, names[self.covered_by], self.rule)
