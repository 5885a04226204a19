"""What a selection's rankings would keep at other budgets, where one was asked for, or at other thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.pruning.ranking import count_to_keep
from lim_gpu.reduction.request import HASH_BITS, THRESHOLD_RANGE
from lim_gpu.report.shown import Shown

STEPS = 200  # of thresholds and of counts
SHARES = np.arange(1, 101) / 100


@dataclass(frozen=True)
class _Steps:
    """The places of a slider.

    what    the option that it stands for
    labels  a text a place
    gone    slices dropped, (places, units)
    asked   the place that was asked for; None where it is none of them
    """

    what: str
    labels: list[str]
    gone: NDArray[np.int64]
    asked: int | None = None


def slider(shown: Shown) -> dict[str, Any] | None:
    """Kept slices of all units at each place of the slider, for the page; None where no ranking is there."""
    ranked = shown.curves
    if not ranked or shown.selection.record["method"] not in THRESHOLD_RANGE:
        return None
    removals = [-np.sort(-np.array(part.removal_similarity, dtype=float)) for part in ranked]  # as they went
    sizes = np.array([len(part.z) for part in ranked])
    budget = shown.selection.record["parameters"].get
    if budget("keep") is None and budget("keep_count") is None:
        steps = _thresholds(shown, removals)
    else:
        steps = _budgets(shown, removals, sizes)
    kept = sizes - steps.gone
    own = np.array([len(part.kept) for part in ranked])
    nearest = int(np.argmin(np.abs(kept - own).sum(axis=1)))  # where it keeps what was kept
    return {
        "title": shown.title,
        "colour": shown.colour,
        "what": steps.what,
        "start": nearest if steps.asked is None else steps.asked,
        "labels": steps.labels,
        "last": [_last(shown, removals, gone) for gone in steps.gone],
        "unit": shown.unit if len(ranked) > 1 else None,
        "kept": kept.sum(axis=1).tolist(),
        "least": kept.min(axis=1).tolist(),
        "most": kept.max(axis=1).tolist(),
        "slices": int(sizes.sum()),
    }


def _thresholds(shown: Shown, removals: Sequence[NDArray[np.float64]]) -> _Steps:
    """One for all units, in the method's own unit; that which was asked for is among them."""
    values, limit = np.concatenate(removals), _limit(shown)
    if shown.compared_by == "hash":
        others = 1 - np.arange(HASH_BITS // 2 + 1) / HASH_BITS
    else:
        others = np.linspace(values.min(), values.max(), STEPS) if len(values) else np.zeros(1)
    found = np.unique(np.append(others, limit if limit is not None else []))
    similarities = (found[::-1] if shown.compared_by == "hash" else found).tolist()
    gone = np.array([[_reached(one, similarity) for one in removals] for similarity in similarities])
    labels = [f"threshold {_number(shown, value)}" for value in similarities]
    return _Steps("threshold", labels, gone, None if limit is None else similarities.index(limit))


def _limit(shown: Shown) -> float | None:
    """The threshold that was asked for, as a similarity; None where none was."""
    limit = shown.selection.record["parameters"].get("threshold")
    return 1 - limit / HASH_BITS if limit is not None and shown.compared_by == "hash" else limit


def _budgets(shown: Shown, removals: Sequence[NDArray[np.float64]], sizes: NDArray[np.int64]) -> _Steps:
    """A share or a number of every unit; the threshold stays, where one was asked for beside."""
    parameters, limit = shown.selection.record["parameters"], _limit(shown)
    stop = -np.inf if limit is None else limit
    name = "keep" if parameters.get("keep") is not None else "keep_count"
    others = SHARES if name == "keep" else np.unique(np.linspace(1, sizes.max(), STEPS).astype(int))
    values = np.unique(np.append(others, parameters[name])).tolist()
    gone = [[_gone(one, n, stop, {name: value}) for one, n in zip(removals, sizes, strict=True)] for value in values]
    option = name.replace("_", "-")
    labels = [f"{option} {value:g}" for value in values]
    return _Steps(option, labels, np.array(gone), values.index(parameters[name]))


def _gone(removals: NDArray[np.float64], n: int, stop: float, budget: dict[str, Any]) -> int:
    """Slices of a unit that go, when the budget or the similarity `stop` ends it, whichever comes first."""
    return min(int(n) - count_to_keep(int(n), **budget), _reached(removals, stop))


def _reached(removals: NDArray[np.float64], similarity: float) -> int:
    """How many removals, the most alike first, are at least so alike."""
    return int(np.searchsorted(-removals, -similarity, side="right"))


def _last(shown: Shown, removals: Sequence[NDArray[np.float64]], gone: NDArray[np.int64]) -> str:
    """The least alike pair of any unit whose second slice went, "" where none did."""
    last = [one[count - 1] for one, count in zip(removals, gone, strict=True) if count]
    return _number(shown, min(last)) if last else ""


def _number(shown: Shown, similarity: float) -> str:
    value = float(shown.in_own_unit(similarity))
    return f"{value:.0f} {shown.scale}" if shown.compared_by == "hash" else f"{value:.4f} {shown.scale}"
