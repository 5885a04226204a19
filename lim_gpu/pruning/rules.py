"""Which slices go: the greedy ranking, the authors' leader rule, and the two baselines.

Everything here works on a similarity matrix (n, n), larger = more similar, of any array library, and returns indices.
A float32 torch tensor on a GPU is pruned there (kernels/prune.cu), anything else by NumPy; comparisons alone decide, so
the same matrix gives the same choice on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.pruning.checks import check_rule, check_similarity, checked_threshold

Indices = NDArray[np.int64]
CHUNK = 1 << 14  # pairs looked at together; most pairs of a late chunk are dead and fall out in one NumPy pass

NOT_FINITE = "the similarity matrix holds NaN or infinity. Give numbers, and -inf for pairs that are not compared"


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
    similarity  (m,) float64, similarity of the pair that removed each; never increasing
    covered_by  (m,) int64, the partner that stayed at that moment
    """

    n: int
    dropped: Indices
    similarity: NDArray[np.float64]
    covered_by: Indices

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

        Raises UsageError for a number that is no similarity, such as bits.
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
        return Ranking(self.n, names[self.dropped], self.similarity, names[self.covered_by])


def rank(matrix: ArrayLike, order: Indices | None = None) -> Ranking:
    """Greedy most-similar-pair removal (Wolf et al. 2024, section 2.1), carried to the end.

    matrix: (n, n), NumPy, torch or CuPy; only i < j is read; -inf marks a pair that cannot be compared.
    order: a permutation (n,) of the slices, by default as they come: i < j and ties are those of the places in it.
    All pairs i < j by similarity descending, ties by (i, j) ascending; when both slices of a pair are still there,
    j goes. O(n² log n) time, about 40 bytes a pair; on a GPU only the ranking leaves it.
    Raises InputError when the matrix is not square, is empty, or holds NaN or +inf, and NoGpuError for a tensor on a
    GPU when CuPy is not installed.
    """
    if on_gpu(matrix):
        from lim_gpu.pruning import cuda as kernels

        tensor = _checked_on_gpu(matrix)
        dropped, covered_by, similarity = kernels.rank(tensor, order)
        ranking = Ranking(len(tensor), dropped, similarity, covered_by)
    else:
        values = _checked(matrix)
        ranking = _rank(values if order is None else values[np.ix_(order, order)])
    return ranking if order is None else ranking.renamed(order)


def _rank(values: NDArray[Any]) -> Ranking:
    n = len(values)
    pairs = np.flatnonzero(np.triu(np.ones((n, n), dtype=bool), 1))  # flat i * n + j: ascending = (i, j) ascending
    upper = values.ravel()[pairs]
    comparable = upper > -np.inf
    pairs, upper = pairs[comparable], upper[comparable]
    pairs = pairs[np.argsort(-upper, kind="stable")]
    dropped, covered_by = _walk(pairs, n)
    similarity = values[np.minimum(dropped, covered_by), np.maximum(dropped, covered_by)].astype(np.float64)
    return Ranking(n, dropped, similarity, covered_by)


def _walk(pairs: Indices, n: int) -> tuple[Indices, Indices]:
    """Remove j of each pair i * n + j, in the order given, where both are still there."""
    alive = np.ones(n, dtype=bool)
    removals: list[tuple[int, int]] = []
    for start in range(0, len(pairs), CHUNK):
        if len(removals) == n - 1:
            break
        i, j = np.divmod(pairs[start : start + CHUNK], n)
        both = alive[i] & alive[j]
        for stays, goes in zip(i[both].tolist(), j[both].tolist(), strict=True):
            if alive[stays] and alive[goes]:
                alive[goes] = False
                removals.append((goes, stays))
    sequence = np.array(removals, dtype=np.int64).reshape(-1, 2)
    return sequence[:, 0], sequence[:, 1]


def leader(matrix: ArrayLike, threshold: float, order: Indices | None = None) -> Indices:
    """The rule of the authors' published script: walk the slices in order, keep the first one left, drop every other
    whose similarity to it is >= `threshold`. Returns the kept indices (k,), ascending.

    The paper's text describes `rank` instead; the two keep different slices.
    `order`: as in `rank`. Raises UsageError for a threshold that is no number, InputError and NoGpuError as `rank`.
    """
    limit = checked_threshold(threshold)
    if on_gpu(matrix):
        from lim_gpu.pruning import cuda as kernels

        kept = kernels.leader(_checked_on_gpu(matrix), limit, order)
    else:
        values = _checked(matrix)
        check_similarity(limit, values)
        kept = _leader(values if order is None else values[np.ix_(order, order)], limit)
    return kept if order is None else np.sort(order[kept])


def _leader(values: NDArray[Any], limit: float) -> Indices:
    alive = np.ones(len(values), dtype=bool)
    for i in range(len(values)):
        if alive[i]:
            alive[i + 1 :] &= ~(values[i, i + 1 :].astype(np.float64) >= limit)
    return np.flatnonzero(alive)


def nearest_kept(matrix: ArrayLike, kept: Indices) -> tuple[Indices, NDArray[Any]]:
    """The kept slice (k,) most similar to each of n, ties to the lowest, itself where kept; and that similarity (n,).

    matrix: (n, n), all of it, as `rank` took it.
    """
    if on_gpu(matrix):
        from lim_gpu.pruning import cuda as kernels

        return kernels.nearest_kept(matrix, kept)  # type: ignore[arg-type]
    values = to_numpy(matrix)
    covered_by = kept[np.argmax(values[:, kept], axis=1)]  # argmax takes the first
    covered_by[kept] = kept
    return covered_by, values[np.arange(len(covered_by)), covered_by]


def prune(
    matrix: ArrayLike,
    *,
    keep: float | None = None,
    keep_count: int | None = None,
    threshold: float | None = None,
    rule: str = "greedy",
) -> Indices:
    """Sorted indices of the slices that stay: `rank` and `Ranking.select` in one, or `leader`.

    matrix: (n, n); keep: fraction in (0, 1]; keep_count: whole number >= 1; threshold: a similarity (HASH: 1 - bits/64)
    rule: "greedy" (the paper) or "leader" (the authors' script; takes a threshold and no budget).
    Raises UsageError when nothing says where to stop or the rule cannot do what is asked, InputError as `rank`.
    """
    check_rule(rule, keep, keep_count, threshold)
    if rule == "leader":
        assert threshold is not None
        return leader(matrix, threshold)
    return rank(matrix).select(keep, keep_count, threshold)


def every_n(n: int, keep: float | None = None, keep_count: int | None = None) -> Indices:
    """EveryN: indices 0, N, 2N, ... with N = floor(1 / keep + 0.5); for a count K, floor(i n / K). Sorted (k,)."""
    if keep_count is not None:
        count = count_to_keep(n, keep, keep_count)
        return np.arange(count, dtype=np.int64) * n // count
    if keep is None:
        raise UsageError("nothing says how many every-n keeps. Give `keep` or `keep_count`")
    count_to_keep(n, keep)
    return np.arange(0, n, int(min(n, 1 / keep + 0.5)), dtype=np.int64)


def random_choice(
    n: int, seed: int | Sequence[int], keep: float | None = None, keep_count: int | None = None
) -> Indices:
    """A seeded choice of the size that `rank` would keep: the control at equal budget. Sorted (k,)."""
    if keep is None and keep_count is None:
        raise UsageError("nothing says how many random keeps. Give `keep` or `keep_count`")
    count = count_to_keep(n, keep, keep_count)
    return np.sort(np.random.default_rng(seed).permutation(n)[:count]).astype(np.int64)


def on_gpu(matrix: Any) -> bool:
    """Whether the kernels take a matrix where it lies: float32, in torch, on a GPU."""
    return bool(getattr(matrix, "is_cuda", False)) and str(matrix.dtype) == "torch.float32"


def to_numpy(array: Any) -> NDArray[Any]:
    """A NumPy array of what NumPy, torch (any device) or CuPy holds."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    elif hasattr(array, "get") and hasattr(array, "device"):
        array = array.get()
    return np.asarray(array)


def _checked_on_gpu(matrix: Any) -> Any:
    _check_shape(tuple(matrix.shape))
    if not float(matrix.amax()) < np.inf:  # NaN is the largest of all
        raise InputError(NOT_FINITE)
    return matrix.detach()


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise InputError(f"a similarity matrix of shape {shape} has no pairs. Give (n, n) with n >= 1")


def _checked(matrix: Any) -> NDArray[Any]:
    values = to_numpy(matrix)
    _check_shape(values.shape)
    if values.dtype.kind not in "fiu":
        raise InputError(f"a similarity matrix of {values.dtype} has no order. Give real numbers")
    if values.dtype.kind in "iu" or values.dtype.itemsize < 4:
        values = values.astype(np.float64)
    if np.isnan(values).any() or np.isposinf(values).any():
        raise InputError(NOT_FINITE)
    return values
