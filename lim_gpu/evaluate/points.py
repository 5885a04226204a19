"""What the fine-tunings of an evaluation scored, seed by seed, and how far that is from untrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import LimGpuError
from lim_gpu.evaluate.study import (
    ATTRIBUTES,
    BASELINE,
    CLASSIFICATION,
    RANDOM,
    SEGMENTATION,
    Study,
    Tune,
    seeded,
    tunings,
)
from lim_gpu.files import read_json
from lim_gpu.finetune.metrics import interval_of_means, summary
from lim_gpu.finetune.results import compare

SCORES = {
    CLASSIFICATION: ("auc", "sensitivity", "specificity"),
    SEGMENTATION: ("dice", "iou"),
    ATTRIBUTES: ("auc",),
}  # the first is the one by which weights are compared


@dataclass(frozen=True)
class Point:
    """A start at one fraction.

    images   that it was trained on, the mean over its runs
    scores   by name: mean, sd (ddof 1) and values over the pre-trainings, or of one over its fine-tunings; interval
    less     the first score less that of what it is compared with: mean and 95 % interval; None of the latter itself
    """

    job: Tune
    images: float
    scores: dict[str, dict[str, Any]]
    less: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Of the start, for people."""
        return f"{self.job.start.name}, frozen" if self.job.frozen and self.job.start == RANDOM else self.job.start.name

    def values(self) -> dict[str, Any]:
        """For JSON."""
        about = {"start": self.name, "target": self.job.target, "fraction": self.job.fraction}
        return about | {name: value for name, value in asdict(self).items() if name != "job"}


def points(evaluation: str, study: Study, output: Path) -> list[Point]:
    """Those that are done."""
    found = [_point(evaluation, job, study, output) for job in tunings(evaluation, study)]
    return [point for point in found if point is not None]


def _point(evaluation: str, job: Tune, study: Study, output: Path) -> Point | None:
    folders = done(job, study, output)
    if not folders:
        return None
    found = [read_json(folder / "results.json") for folder in folders]
    images = float(np.mean([run["train"] for results in found for run in results["runs"]]))
    scores = {name: pooled([results[name] for results in found]) for name in SCORES[job.task] if name in found[0]}
    return Point(job, images, scores, less(folders, output / _other(evaluation, job).folder, SCORES[job.task][0]))


def done(job: Tune, study: Study, output: Path) -> list[Path]:
    """The folders of those seeds of a fine-tuning that are finished."""
    folders = [output / one.folder for one in seeded(job, study)]
    return [folder for folder in folders if (folder / "results.json").exists()]


def pooled(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One fine-tuning's over its runs; of several over their means."""
    if len(scores) == 1:
        return scores[0]
    interval = over_seeds(scores)
    within = None if interval is None else np.clip(interval, 0, 1).tolist()
    return summary([score["mean"] for score in scores]) | {"interval": within}


def over_seeds(found: Sequence[dict[str, Any]]) -> list[float] | None:
    """95 % interval of the mean of several pre-trainings, each a mean with its own interval over runs and test images.

    These are the same of every seed, so that no number of seeds makes them certain: half of the interval of the seeds'
    means and half of the seeds' own, on average of those that have one, add up in quadrature. None where none has.
    """
    means = [one["mean"] for one in found]
    seeds = interval_of_means(means)
    own = [np.array(one["interval"]) - one["mean"] for one in found if one["interval"] is not None]
    if seeds is None or not own:
        return None
    low, high = np.hypot(np.mean(own, axis=0), seeds[1] - np.mean(means)).tolist()
    return [float(np.mean(means)) - low, float(np.mean(means)) + high]


def _other(evaluation: str, job: Tune) -> Tune:
    """With what a fine-tuning is compared: the baseline, or untrained weights of the same network."""
    return replace(job, start=BASELINE if evaluation == "T3" else RANDOM, frozen=False, seed=0)


def less(folders: Sequence[Path], other: Path, score: str) -> dict[str, Any] | None:
    """The mean difference and its interval: over runs and test images, and pre-trainings where there are several."""
    if other in folders:
        return None
    try:
        found = [compare(folder, other)[score] for folder in folders]
    except LimGpuError:  # not done, or of other data
        return None
    interval = found[0]["interval"] if len(found) == 1 else over_seeds(found)
    within = None if interval is None else np.clip(interval, -1, 1).tolist()
    return {"mean": float(np.mean([one["mean"] for one in found])), "interval": within}


def told_spread(score: dict[str, Any]) -> str:
    """Mean ± sd."""
    return f"{score['mean']:.3f}" + (f" ± {score['sd']:.3f}" if score["sd"] is not None else "")


def told_less(found: dict[str, Any] | None) -> str:
    """A difference and its interval."""
    if found is None:
        return ""
    low, high = found["interval"] or (None, None)
    return f"{found['mean']:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low is not None else "")
