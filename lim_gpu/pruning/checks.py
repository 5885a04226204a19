"""Whether a rule can stop where it is told to, and whether a threshold is one."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError, unknown

RANKED = ("greedy", "facility", "k-center")  # the rules that have a sequence of removals
RULES = (RANKED[0], "leader", *RANKED[1:])
SIMILARITY = (-1, 2)  # what all methods give: SSIM and DeepNet from -1, MI to 2


def check_rule(rule: str, keep: float | None, keep_count: int | None, threshold: float | None) -> None:
    """Raise UsageError unless `rule` can stop where the budget and the threshold say."""
    if rule not in RULES:
        raise unknown("`rule`", rule, RULES)
    if rule == "leader" and (keep is not None or keep_count is not None):
        raise UsageError("the leader rule takes a `threshold` and no budget. Give `rule` greedy for one")
    if rule == "leader" and threshold is None:
        raise UsageError("the leader rule needs a `threshold`. Give one, or `rule` greedy")
    if threshold is not None:
        check_takes_threshold(rule)
    if keep is None and keep_count is None and threshold is None:
        raise UsageError("nothing says where to stop. Give `keep`, `keep_count` or `threshold`")


def check_ranked(rule: str) -> None:
    """Raise UsageError unless `rule` has a sequence of removals."""
    if rule == "leader":
        raise UsageError(f"the leader rule has no sequence of removals. Give `rule` {', '.join(RANKED)}, or use prune")
    if rule not in RANKED:
        raise unknown("`rule`", rule, RANKED)


def check_takes_threshold(rule: str) -> None:
    """Raise UsageError unless a threshold means something for `rule`."""
    if rule == "facility":
        text = "the facility rule takes `keep` or `keep_count` and no `threshold`"
        raise UsageError(f"{text}. Give `rule` k-center, which promises one")


def checked_threshold(threshold: Any) -> float:
    """`threshold` as float64; UsageError when it is no finite number."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not np.isfinite(float(threshold)):
        raise UsageError(f"`threshold` {threshold!r} is not a number. Give one in the unit of the similarity")
    return float(threshold)


def check_similarity(threshold: float, values: NDArray[Any]) -> None:
    """Raise UsageError for a threshold that no method's similarity reaches, unless `values` are of another kind."""
    low, high = SIMILARITY
    if low <= threshold <= high:
        return
    finite = values[np.isfinite(values)]
    if len(finite) and low <= finite.min() and finite.max() <= high:
        bits = f". For HASH {threshold:g} bits are 1 - {threshold:g} / 64" if 0 < threshold <= 64 else ""
        raise UsageError(f"`threshold` {threshold:g} is no similarity. Give one within {low}..{high}{bits}")
