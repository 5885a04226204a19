"""Scores over fractions of the labels, as Tariq et al.'s Figures 3, 4 and 5: tables, and curves with bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.evaluate.part import Part
from lim_gpu.evaluate.points import SCORES, Point, done, points, told_less, told_spread
from lim_gpu.evaluate.study import CONTROL, SEGMENTATION, TASK_OF, Study
from lim_gpu.files import read_json
from lim_gpu.report.figures import INK, SERIES

NAMES = {"auc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "dice": "Dice", "iou": "IoU"}
TITLES = {
    "T3": "Classification over fractions of labels (Figure 3)",
    "T4": "Classification by masked shares (Figure 4)",
    "T5": "Segmentation over fractions and epochs (Figure 5)",
}
DRAWN = {"T3": ("auc", "sensitivity", "specificity"), "T4": ("auc",), "T5": ("dice", "iou")}
RATES_OF = ("baseline", "random", f"masked {CONTROL:g}")  # whose sensitivity and specificity are drawn, as in Figure 3
UNTRAINED = {"random": ":", "baseline": "-"}
BAND = "bands: ± sd (ddof 1), over pre-trainings where there are several, else over the runs of a fine-tuning"
FRACTION = "a fraction is of the training patients; those that choose the epoch and the threshold are not counted"
NOTES = {
    "T3": (
        BAND,
        FRACTION,
        "baseline: another network with its own weights; random: the network of the pretext tasks, untrained, which "
        "the paper does not show. Less baseline: 95 % interval, see finetune --against",
        "sensitivity and specificity at Youden's threshold, chosen on validation; the paper's at that of the ROC curve",
    ),
    "T4": (
        BAND,
        FRACTION,
        f"the stages of one curriculum: larger shares were trained for longer; masked {CONTROL:g} alone as long as all",
    ),
    "T5": (
        BAND,
        FRACTION,
        "over fractions: of test images, at the epoch that validation chose; over epochs: of the validation images; "
        "a training of fewer epochs is the beginning of a longer one",
    ),
}


def told(evaluation: str, study: Study, output: Path) -> Part:
    """Tables of every score, start by fraction, and the picture."""
    found = points(evaluation, study, output)
    names = [name for name in SCORES[TASK_OF[evaluation]] if any(name in point.scores for point in found)]
    tables = {NAMES[name]: table(found, partial(_spread, name)) for name in names}
    if any(point.less for point in found):
        other = "baseline" if evaluation == "T3" else "random"
        tables |= {f"{NAMES[names[0]]} less that of {other}": table(found, lambda point: told_less(point.less))}
    values = [point.values() for point in found]
    epochs = {}
    if TASK_OF[evaluation] == SEGMENTATION:
        epochs = {_key(point): histories(point, study, output) for point in found}
        for value, history in zip(values, epochs.values(), strict=True):
            value["val_dice"] = {"mean": history.mean(axis=0).tolist(), "sd": _sd(history).tolist()}
    figure = draw(found, [name for name in DRAWN[evaluation] if name in names], epochs) if found else None
    return Part(evaluation, TITLES[evaluation], tables, values, NOTES[evaluation], figure)


def _key(point: Point) -> tuple[str, float]:
    return point.name, point.job.fraction


def _spread(score: str, point: Point) -> str:
    return told_spread(point.scores[score])


def table(found: Sequence[Point], cell: Callable[[Point], str]) -> list[list[str]]:
    """A row a start, a column a fraction, whose head says how many images that is."""
    by_key = {_key(point): point for point in found}
    fractions = sorted({point.job.fraction for point in found})
    images = {fraction: [p.images for p in found if p.job.fraction == fraction] for fraction in fractions}
    head = [f"{fraction:.3g} ({np.mean(images[fraction]):,.0f} images)" for fraction in fractions]
    rows = [
        [name, *(cell(by_key[name, f]) if (name, f) in by_key else "not run" for f in fractions)]
        for name in dict.fromkeys(point.name for point in found)
    ]
    return [["begins with", *head], *rows]


def histories(point: Point, study: Study, output: Path) -> NDArray[np.float64]:
    """(fine-tunings, epochs) Dice on validation after every epoch, of all seeds and runs."""
    paths = [p for folder in done(point.job, study, output) for p in folder.glob("runs/*/candidate-0/training.json")]
    return np.array([[epoch["val_dice"] for epoch in read_json(path)["history"]] for path in sorted(paths)])


def _sd(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def draw(
    found: Sequence[Point], scores: Sequence[str], epochs: dict[tuple[str, float], NDArray[np.float64]] | None = None
) -> Any:
    """A panel a score over fractions, a curve a start; below, where given, a panel a fraction over epochs."""
    from matplotlib.figure import Figure

    fractions = sorted({point.job.fraction for point in found}) if epochs else []
    columns = max(len(scores), len(fractions))
    figure = Figure(figsize=(max(6.0, 3.4 * columns), 7.2 if epochs else 4.4), layout="constrained")
    panels = figure.subplots(2 if epochs else 1, columns, squeeze=False)
    for axes, score in zip(panels[0], scores, strict=False):
        _over_fractions(axes, found, score)
    for axes, fraction in zip(panels[-1], fractions, strict=False):
        _over_epochs(axes, found, fraction, epochs or {})
    for axes in panels.ravel():
        axes.set_axis_off() if not axes.has_data() else _plain(axes)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _over_fractions(axes: Any, found: Sequence[Point], score: str) -> None:
    for name, style in _styles(found).items():
        own = sorted((p for p in found if p.name == name and score in p.scores), key=lambda point: point.job.fraction)
        if not own or (score in ("sensitivity", "specificity") and name not in RATES_OF):
            continue
        means, sds = (np.array([point.scores[score][key] or 0.0 for point in own]) for key in ("mean", "sd"))
        _curve(axes, [point.job.fraction for point in own], means, sds, style, name)
    axes.set(xscale="log", xlabel="fraction of the training patients", ylabel=NAMES[score])
    ticks = sorted({point.job.fraction for point in found})
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()


def _over_epochs(
    axes: Any, found: Sequence[Point], fraction: float, epochs: dict[tuple[str, float], NDArray[np.float64]]
) -> None:
    for name, style in _styles(found).items():
        if (name, fraction) in epochs:
            history = epochs[name, fraction]
            _curve(axes, np.arange(1, history.shape[1] + 1), history.mean(axis=0), _sd(history), style, name)
    share = "all patients" if fraction == 1 else f"{fraction:.3g} of the patients"
    axes.set(xlabel="epochs", ylabel="Dice on validation", title=share)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _curve(axes: Any, x: Any, means: Any, sds: Any, style: dict[str, Any], name: str) -> None:
    axes.plot(x, means, marker="o", markersize=3, label=name, **style)
    low, high = (np.clip(means + side * sds, 0, 1) for side in (-1, 1))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _styles(found: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Untrained weights grey, others in colours, dashed from the second round of these on."""
    names = list(dict.fromkeys(point.name for point in found))
    trained = [name for name in names if name not in UNTRAINED]
    styles = {
        name: {"color": SERIES[place % len(SERIES)], "linestyle": "-" if place < len(SERIES) else "--"}
        for place, name in enumerate(trained)
    }
    return {name: styles.get(name, {"color": INK, "linestyle": UNTRAINED.get(name, "-")}) for name in names}


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK, which="both")
    axes.patch.set_alpha(0)
