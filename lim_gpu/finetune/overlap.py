"""How far masks agree: Dice and intersection over union of an image, their means, and intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.finetune.metrics import paired, student_interval

Floats = NDArray[np.float64]
OVERLAPS = ("dice", "iou")
RESAMPLES = 2000


@dataclass(frozen=True)
class Overlaps:
    """Of the n test images of one run: places in the table, groups (equal for one patient), dice and iou.

    NaN where nothing is marked on an image in truth; false_alarms: whether something is predicted there.
    """

    places: NDArray[np.int64]
    groups: NDArray[np.int64]
    dice: Floats
    iou: Floats
    false_alarms: NDArray[np.bool_]


def overlaps(record: dict[str, Any]) -> Overlaps:
    """Those that a run's test.json holds."""
    places, groups = (np.array(record[name], dtype=np.int64) for name in ("places", "groups"))
    dice, iou = (np.array(record[name], dtype=np.float64) for name in OVERLAPS)  # None becomes NaN
    return Overlaps(places, groups, dice, iou, np.array(record["false_alarms"], dtype=np.bool_))


def overlap(predicted: NDArray[Any], true: NDArray[Any]) -> tuple[Floats, Floats]:
    """Dice, 2 |A and B| / (|A| + |B|), and IoU, |A and B| / |A or B|, of masks (n, ...) of 0 and 1.

    NaN where `true` is empty, as MONAI's metrics have it.
    """
    one, two = (mask.reshape(len(mask), -1).astype(np.float64) for mask in (predicted, true))
    both, sizes, marked = (one * two).sum(1), one.sum(1) + two.sum(1), two.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(marked > 0, 2 * both / sizes, np.nan), np.where(marked > 0, both / (sizes - both), np.nan)


def mean(values: Floats) -> float:
    """Of what is no NaN; NaN where that is nothing."""
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else float("nan")


def interval(
    runs: Sequence[tuple[NDArray[np.int64], Floats]],
    seed: int,
    minus: Sequence[tuple[NDArray[np.int64], Floats]] | None = None,
    resamples: int = RESAMPLES,
) -> list[float] | None:
    """95 % interval of the mean over images, meant over runs; of its difference to `minus` where given.

    runs: groups (n,) and values (n,) of each. Groups are drawn with replacement, and count alike in all runs and in
    both sides of a difference; how runs differ comes in as `metrics.student_interval` says.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(np.concatenate([groups for groups, _ in runs]))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.concatenate([np.ones((1, len(names)), dtype=np.int64), drawn])

    def means(side: Sequence[tuple[NDArray[np.int64], Floats]]) -> Floats:
        return np.stack([_weighted_mean(values, weights[:, np.searchsorted(names, groups)]) for groups, values in side])

    found = means(runs) - (means(minus) if minus else 0.0)
    return student_interval(found[:, 0], found[:, 1:].mean(axis=0), len(names), -1.0 if minus else 0.0)


def _weighted_mean(values: Floats, weights: NDArray[np.int64]) -> Floats:
    """(r,) of values (n,) with weights (r, n); NaN where all weight lies on values that are NaN."""
    seen = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights[:, seen] @ values[seen]) / weights[:, seen].sum(axis=1)


def differences(runs: Sequence[Overlaps], others: Sequence[Overlaps], seed: int) -> dict[str, Any]:
    """Dice and IoU of `runs` less those of `others`, run by run."""
    found = {}
    for name in OVERLAPS:
        own, other = ([(test.groups, getattr(test, name)) for test in side] for side in (runs, others))
        first, second = ([mean(values) for _, values in side] for side in (own, other))
        found[name] = paired(first, second, interval(own, seed, minus=other))
    return found
