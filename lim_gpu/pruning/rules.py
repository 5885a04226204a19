"""Which slices go: the greedy ranking, the authors' leader rule, facility location, k-center, and the two baselines.

Everything here works on a similarity matrix (n, n), larger = more similar, of any array library, and returns indices.
A float32 torch tensor on a GPU is pruned there (kernels/prune.cu; facility and k-center by torch), anything else on the
CPU; comparisons and exact sums alone decide, so the same matrix gives the same choice on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.pruning.checks import check_ranked, check_rule, check_similarity, checked_threshold
from lim_gpu.pruning.ranking import Indices, Ranking, count_to_keep

CHUNK = 1 << 14  # pairs looked at together; most pairs of a late chunk are dead and fall out in one NumPy pass

NOT_FINITE = "the similarity matrix holds NaN or infinity. Give numbers, and -inf for pairs that are not compared"


def rank(matrix: ArrayLike, order: Indices | None = None, *, rule: str = "greedy") -> Ranking:
    """The removal sequence of a rule, carried to the end.

    matrix: (n, n), NumPy, torch or CuPy; -inf marks a pair that cannot be compared.
    order: a permutation (n,) of the slices, by default as they come: i < j and ties are those of the places in it.
    rule: "greedy", most-similar-pair removal (Wolf et al. 2024, section 2.1): all pairs i < j by similarity descending,
    ties by (i, j) ascending; when both slices of a pair are still there, j goes. Only i < j is read. O(n² log n) time,
    about 40 bytes a pair; on a GPU only the ranking leaves it.
    "facility" and "k-center": see `lim_gpu.pruning.additions`; they read all of a symmetric matrix, and a threshold of
    k-center promises that every slice that goes has a kept one at least as alike.
    Raises UsageError for a rule without a sequence, InputError when the matrix is not square, is empty, or holds NaN or
    +inf, and NoGpuError for a tensor on a GPU when CuPy is not installed.
    """
    check_ranked(rule)
    return _greedy(matrix, order) if rule == "greedy" else _by_addition(matrix, order, rule)


def _by_addition(matrix: ArrayLike, order: Indices | None, rule: str) -> Ranking:
    import torch

    from lim_gpu.pruning.additions import add

    if on_gpu(matrix):
        values = _checked_on_gpu(matrix)
    else:
        values = torch.from_numpy(np.require(_checked(matrix), requirements=("C", "W")))
    return add(rule, values.__getitem__, len(values), values.device, order)


def _greedy(matrix: ArrayLike, order: Indices | None) -> Ranking:
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
    rule: "greedy" (the paper), "leader" (the authors' script; takes a threshold and no budget), "facility" (takes a
    budget and no threshold) or "k-center": see `rank`.
    Raises UsageError when nothing says where to stop or the rule cannot do what is asked, InputError as `rank`.
    """
    check_rule(rule, keep, keep_count, threshold)
    if rule == "leader":
        assert threshold is not None
        return leader(matrix, threshold)
    return rank(matrix, rule=rule).select(keep, keep_count, threshold)


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
