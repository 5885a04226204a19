"""Scores of predictions: of one run, over runs, and with intervals."""

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
ROUNDING = 1e-24  # variance that equal scores have, which are summed in another order


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
    """95 % intervals of auc, f1 and acc, meant over runs; of their difference to `minus`, run by run, where given.

    Two levels of chance: which test images there are, by drawing groups (patients) with replacement, an image with the
    same weight in every run and on both sides; and which runs, by their deviation. Both go into Student's interval:
    drawing among five runs as well would cover 84 %. A single run tells of images alone. Resamples in which a class is
    absent count for no AUC.
    """
    rng = np.random.default_rng(seed)
    places, first = np.unique(np.concatenate([run.places for run in runs]), return_index=True)
    names, group = np.unique(np.concatenate([run.groups for run in runs])[first], return_inverse=True)

    def found(weights: Floats) -> dict[str, Floats]:
        """(runs, r) scores under weights (r, images), less those of `minus`."""
        sides = [
            [weighted_scores(run, positive, weights[:, np.searchsorted(places, run.places)]) for run in side]
            for side in (runs, minus or ())
        ]
        own, other = ({name: np.stack([s[name] for s in side]) for name in MAIN if side} for side in sides)
        return {name: own[name] - other.get(name, 0.0) for name in MAIN}

    drawn: list[dict[str, Floats]] = []
    step = max(1, BLOCK // len(places))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        of_groups = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
        drawn.append(found(of_groups[:, group].astype(np.float64)))
    observed, low = found(np.ones((1, len(places)))), 0.0 if minus is None else -1.0
    return {
        name: student_interval(
            observed[name][:, 0], np.concatenate([part[name] for part in drawn], axis=1).mean(axis=0), len(names), low
        )
        for name in MAIN
    }


def interval_of_means(values: Sequence[float] | Floats) -> list[float] | None:
    """95 % interval of the mean of independent values; None of a single one."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def student_interval(runs: Floats, resampled: Floats, groups: int, low: float) -> list[float] | None:
    """Student's 95 % interval of the mean of `runs`, of which `resampled` are other draws of the groups, in low..1.

    The degrees of freedom of a sum of two variances are Satterthwaite's (1946): of two runs that
    differ by more than the images the interval still covers less, 87 %. None where nothing can be told: of one run and
    one patient, and where no draw differs, as when few patients are all told right.
    """
    from scipy.special import stdtrit

    finite = resampled[np.isfinite(resampled)]
    variances = []  # with their degrees of freedom
    if groups > 1 and len(finite) > 1:
        variances.append((float(np.var(finite)) * groups / (groups - 1), groups - 1))
    if len(runs) > 1:
        variances.append((float(np.var(runs, ddof=1)) / len(runs), len(runs) - 1))
    centre, total = float(runs.mean()), sum(variance for variance, _ in variances)
    if not variances or not math.isfinite(centre + total):
        return None
    if total < ROUNDING:  # of a difference: both sides are the same
        return [0.0, 0.0] if low < 0 and centre == 0 else None
    freedom = total**2 / sum(variance**2 / freedom for variance, freedom in variances)
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return [max(low, centre - half), min(1.0, centre + half)]


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
    """Differences of runs of the same seeds: mean, sd, t statistic with its degrees of freedom, interval."""
    result = summary([a - b for a, b in zip(values, others, strict=True)])
    sd, n = result["sd"], len(values)
    result["t"] = result["mean"] / (sd / math.sqrt(n)) if sd else None
    return result | {"degrees_of_freedom": n - 1, "interval": interval}
