"""Attributes of patients read from frozen features, as Tariq et al.'s Figure 6, and what may be concluded from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.part import Part
from lim_gpu.evaluate.points import Point, done, less, points, told_less, told_spread
from lim_gpu.evaluate.study import RANDOM, Study
from lim_gpu.finetune.results import read_finished
from lim_gpu.progress import counted
from lim_gpu.report.figures import INK, SERIES

NAME = "T6"
CHANCE = 0.5
FEW = 20  # test patients of whom an interval by resampling says little
NOTES = (
    "frozen: a linear layer on features that stay as they are; random: the same network, trained from random weights "
    "end to end, as the paper's; random, frozen: calibrated features that nothing was learnt for",
    "may be concluded: that an attribute can be read linearly from features, in these data, by so much, with this "
    "interval; intervals are not corrected for the number of starts and attributes",
    "may not: that a diagnosis made from the features uses it; that features from which it cannot be read linearly do "
    "not hold it; that it would be so elsewhere: scanner, protocol and hospital differ, and can be what is read",
    "the paper's text: race at AUROC 0.72 to 0.74, of next-slice 0.68; sex and age no better than without pre-training",
)


def told(study: Study, output: Path) -> Part:
    """A table with a row a start, what it says in sentences, and a picture."""
    found = points(NAME, study, output)
    targets = list(dict.fromkeys(point.job.target for point in found))
    sentences = tuple(sentence(target, found, study, output) for target in targets)
    values = {"points": [point.values() for point in found], "sentences": sentences}
    figure = draw(found, targets) if found else None
    return Part(
        NAME, "Attributes of patients (Figure 6)", {"": table(found, targets)}, values, sentences + NOTES, figure
    )


def table(found: Sequence[Point], targets: Sequence[str]) -> list[list[str]]:
    """A row a start; of every attribute its AUROC, the interval, and less that of random weights end to end."""
    head = ["begins with", *(f"{t}: {what}" for t in targets for what in ("AUROC", "95 %", "less random"))]
    by_key = {(point.name, point.job.target): point for point in found}
    rows = []
    for name in dict.fromkeys(point.name for point in found):
        own = [by_key.get((name, target)) for target in targets]
        rows.append([name, *(cell for point in own for cell in _cells(point))])
    return [head, *rows]


def _cells(point: Point | None) -> tuple[str, str, str]:
    if point is None:
        return "not run", "", ""
    low, high = point.scores["auc"]["interval"] or (None, None)
    told = "" if low is None else f"{low:.3f} .. {high:.3f}"
    return told_spread(point.scores["auc"]), told, told_less(point.less)


def sentence(target: str, found: Sequence[Point], study: Study, output: Path) -> str:
    """From which frozen features an attribute was read, and from which better than from untrained ones; of few none."""
    frozen = [point for point in found if point.job.target == target and point.job.frozen]
    patients = _patients(frozen, study, output)
    if patients < FEW:
        return f"{target}, {counted(patients, 'test patient')}: too few to conclude anything"
    read = ", ".join(point.name for point in frozen if _above(point.scores["auc"]["interval"], CHANCE)) or "none"
    better = ", ".join(point.name for point in frozen if _better(point, study, output)) or "none"
    said = f"read above chance from {read}; better than from random, frozen: {better}"
    return f"{target}, {counted(patients, 'test patient')}: {said}"


def _above(interval: Sequence[float] | None, limit: float) -> bool:
    return interval is not None and interval[0] > limit


def _better(point: Point, study: Study, output: Path) -> bool:
    untrained = output / replace(point.job, start=RANDOM, seed=0).folder
    found = less(done(point.job, study, output), untrained, "auc")
    return found is not None and _above(found["interval"], 0.0)


def _patients(frozen: Sequence[Point], study: Study, output: Path) -> int:
    """Whom the fine-tunings were tested on, over all runs."""
    tests = [test for point in frozen[:1] for test in read_finished(done(point.job, study, output)[0])[1]]
    return len({group for test in tests for group in test.groups.tolist()})


def draw(found: Sequence[Point], targets: Sequence[str]) -> Any:
    """AUROC and its interval, a panel an attribute, a row a start; untrained weights grey."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.name for point in found))
    size = (2.2 + 2.9 * len(targets), 1.3 + 0.34 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for axes, target in zip(panels, targets, strict=True):
        for point in found:
            if point.job.target == target:
                place = len(names) - 1 - names.index(point.name)
                _row(axes, place, point.scores["auc"], INK if point.job.start == RANDOM else SERIES[0])
        axes.axvline(CHANCE, color=INK, linewidth=1, linestyle=":")
        axes.set(title=target, xlabel="AUROC, 95 % interval")
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_alpha(0)
    panels[0].set_yticks(range(len(names)), names[::-1])
    return figure


def _row(axes: Any, place: int, score: dict[str, Any], colour: str) -> None:
    axes.plot([score["mean"]], [place], "o", color=colour, markersize=6)
    if score["interval"] is not None:
        axes.plot(score["interval"], [place, place], color=colour, linewidth=2)
