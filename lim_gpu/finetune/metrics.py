"""Scores of predictions: of one run, over runs, and with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAIN = ("auc", "f1", "acc")
RESAMPLES = 2000
BLOCK = 2**22  # weights held at a time


@dataclass(frozen=True)
class Predictions:
    """Of the n test images of one run.

    places: (n,) in the table; groups: (n,) equal for images of one patient; labels: (n,); probabilities: (n, classes).
    threshold: of two classes, the probability from which on an image is called positive, chosen on validation.
    """

    places: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: Floats
    threshold: float | None = None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) the most probable class, ties to the first."""
        return self.probabilities.argmax(axis=1)


def scores(predictions: Predictions, classes: Sequence[str], positive: int) -> dict[str, Any]:
    """Scores of one run by torchmetrics.

    acc: share of correct images; auc: area under the ROC curve, of the positive class where there are two classes, else
    the mean over classes against the rest; f1: of the positive class where there are two, else the mean over classes.
    f1_macro, f1_micro (which is accuracy), f1_weighted; f1_of: of every class; confusion: rows true, columns predicted.
    """
    import torch
    from torchmetrics.functional.classification import (
        binary_auroc,
        multiclass_accuracy,
        multiclass_auroc,
        multiclass_confusion_matrix,
        multiclass_f1_score,
    )

    probabilities = torch.from_numpy(predictions.probabilities)
    true, predicted = torch.from_numpy(predictions.labels), torch.from_numpy(predictions.predicted)
    number = len(classes)
    if number == 2:
        auc = binary_auroc(probabilities[:, positive], (true == positive).long())
    else:
        auc = multiclass_auroc(probabilities, true, number, average="macro")
    f1_of = [_rounded(value) for value in multiclass_f1_score(predicted, true, number, average=None)]
    averages = {
        f"f1_{kind}": _rounded(multiclass_f1_score(predicted, true, number, average=kind))
        for kind in ("macro", "micro", "weighted")
    }
    return {
        "auc": _rounded(auc),
        "f1": f1_of[positive] if number == 2 else averages["f1_macro"],
        "acc": _rounded(multiclass_accuracy(predicted, true, number, average="micro")),
        **averages,
        "f1_of": dict(zip(classes, f1_of, strict=True)),
        "confusion": multiclass_confusion_matrix(predicted, true, number).tolist(),
    }


def _rounded(value: Any) -> float:
    """torchmetrics counts in float32: what it holds beyond that is noise."""
    return round(float(value), 6)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (ddof 1; None of a single run) and the values of every run."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "runs": [float(value) for value in values]}


def bootstrap(
    runs: Sequence[Predictions],
    positive: int,
    seed: int,
    minus: Sequence[Predictions] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of auc, f1 and acc, meant over runs; of their difference to `minus` where given.

    Runs, and groups of test images (patients), are drawn with replacement; an image has the same weight in every run
    and in both sides of a difference. Resamples in which a class is absent count for no AUC.
    """
    rng = np.random.default_rng(seed)
    places, first = np.unique(np.concatenate([run.places for run in runs]), return_index=True)
    names, group = np.unique(np.concatenate([run.groups for run in runs])[first], return_inverse=True)
    found: dict[str, list[Floats]] = {name: [] for name in MAIN}
    step = max(1, BLOCK // len(places))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        of_groups = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
        of_runs = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=count) / len(runs)
        weights = of_groups[:, group].astype(np.float64)
        totals = {name: np.zeros(count) for name in MAIN}
        for sign, side in ((1.0, runs), (-1.0, minus or ())):
            for place, run in enumerate(side):
                own = weighted_scores(run, positive, weights[:, np.searchsorted(places, run.places)])
                for name in MAIN:
                    drawn = of_runs[:, place] > 0
                    totals[name][drawn] += sign * of_runs[drawn, place] * own[name][drawn]
        for name in MAIN:
            found[name].append(totals[name])
    return {name: _interval(np.concatenate(parts)) for name, parts in found.items()}


def _interval(values: Floats) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(v) for v in np.quantile(finite, (0.025, 0.975))] if len(finite) else None


def weighted_scores(run: Predictions, positive: int, weights: Floats) -> dict[str, Floats]:
    """auc, f1 and acc (r,) as `scores` defines them, with weights (r, n) of the images; NaN where undefined."""
    number = run.probabilities.shape[1]
    pair = run.labels * number + run.predicted
    cells = np.stack([weights[:, pair == c].sum(axis=1) for c in range(number**2)], axis=1)
    confusion = cells.reshape(-1, number, number)
    right = np.einsum("rcc->rc", confusion)
    true, said = confusion.sum(axis=2), confusion.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1_of = np.where(true + said > 0, 2 * right / (true + said), np.nan)
        acc = right.sum(axis=1) / true.sum(axis=1)
    chosen = [positive] if number == 2 else range(number)
    auc = np.mean([_weighted_auc(run.probabilities[:, c], run.labels == c, weights) for c in chosen], axis=0)
    seen = np.isfinite(f1_of)  # as torchmetrics: a class neither there nor predicted does not count
    macro = np.nansum(f1_of, axis=1) / np.maximum(seen.sum(axis=1), 1)
    f1 = np.nan_to_num(f1_of[:, positive]) if number == 2 else macro
    return {"auc": auc, "f1": f1, "acc": acc}


def _weighted_auc(score: Floats, is_positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Mann-Whitney's probability (r,) that a positive scores above a negative, ties half; NaN without either."""
    values, level = np.unique(score, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(values)))
    up, down = (np.add.reduceat((weights * side)[:, order], starts, axis=1) for side in (is_positive, ~is_positive))
    below = np.cumsum(down, axis=1) - down / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def paired(values: Sequence[float], others: Sequence[float], interval: list[float] | None) -> dict[str, Any]:
    """Differences of runs of the same seeds: mean, sd, t statistic with its degrees of freedom, bootstrap interval."""
    result = summary([a - b for a, b in zip(values, others, strict=True)])
    sd, n = result["sd"], len(values)
    result["t"] = result["mean"] / (sd / math.sqrt(n)) if sd else None
    return result | {"degrees_of_freedom": n - 1, "interval": interval}
