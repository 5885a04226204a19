"""AUC, and the operating point of two classes: Youden's threshold, chosen on validation, and what it gives on the test.

Youden 1950: the threshold at which sensitivity + specificity - 1 is highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.finetune.metrics import Predictions, student_interval, summary

Floats = NDArray[np.float64]
RATES = ("sensitivity", "specificity")


def auc(probabilities: Floats, labels: NDArray[np.int64], positive: int) -> float:
    """Area under the ROC curve of (n, classes): of the positive class of two, else the mean of each against the rest.

    0.5, as of chance, where a class is absent.
    """
    number = probabilities.shape[1]
    chosen = [positive] if number == 2 else range(number)
    return float(np.mean([_auc(probabilities[:, c], labels == c) for c in chosen]))


def _auc(score: Floats, is_positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney's: by the ranks of the positives, ties at their mean."""
    from scipy.stats import rankdata

    up, down = int(is_positive.sum()), int((~is_positive).sum())
    if not up or not down:
        return 0.5
    return float((rankdata(score)[is_positive].sum() - up * (up + 1) / 2) / (up * down))


def youden(score: Floats, is_positive: NDArray[np.bool_]) -> float | None:
    """The score from which on an image is called positive; of equally good ones the highest.

    None where a class is absent, for then every threshold is as good.
    """
    if is_positive.all() or not is_positive.any():
        return None
    levels = np.unique(score)[::-1]
    called = score[:, None] >= levels
    gained = called[is_positive].mean(axis=0) - called[~is_positive].mean(axis=0)
    return float(levels[np.argmax(gained)])


def rates(score: Floats, is_positive: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Sensitivity and specificity of calling positive from `threshold` on; both classes must be there."""
    called = score >= threshold
    return {"sensitivity": float(called[is_positive].mean()), "specificity": float((~called)[~is_positive].mean())}


def rate_summaries(tests: Sequence[Predictions], positive: int, seed: int) -> dict[str, Any]:
    """Mean, sd, runs and interval of sensitivity and specificity on the test parts of runs, each at its threshold.

    Nothing where a run has none.
    """
    sides = [
        (test.probabilities[:, positive], test.labels == positive, test.threshold)
        for test in tests
        if test.threshold is not None
    ]
    if len(sides) < len(tests):
        return {}
    found = [rates(*side) for side in sides]
    drawn = [(test.groups, own, score >= threshold) for test, (score, own, threshold) in zip(tests, sides, strict=True)]
    intervals = rates_interval(drawn, seed)
    return {name: summary([run[name] for run in found]) | {"interval": intervals[name]} for name in RATES}


def rates_interval(
    runs: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]], seed: int, resamples: int = 2000
) -> dict[str, list[float] | None]:
    """95 % intervals of both rates, meant over runs.

    runs: of each the groups (n,) of its images, which are positive, and which are called so. Groups are drawn with
    replacement, as `metrics.bootstrap` draws them; how runs differ comes in as `metrics.student_interval` says.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(np.concatenate([groups for groups, _, _ in runs]))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.concatenate([np.ones((1, len(names)), dtype=np.int64), drawn])
    found: dict[str, list[Floats]] = {name: [] for name in RATES}
    for groups, positive, called in runs:
        own = weights[:, np.searchsorted(names, groups)]
        for name, side, right in (("sensitivity", positive, called), ("specificity", ~positive, ~called)):
            with np.errstate(divide="ignore", invalid="ignore"):
                found[name].append((own * (side & right)).sum(axis=1) / (own * side).sum(axis=1))
    both = {name: np.stack(values) for name, values in found.items()}
    return {name: student_interval(v[:, 0], v[:, 1:].mean(axis=0), len(names), 0.0) for name, v in both.items()}
