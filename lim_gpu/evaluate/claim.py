"""Is less more? Pre-trainings that differ in their slices alone, compared seed by seed, and a verdict in one sentence.

Less is more where the slices that HASH keeps pre-train better than all slices, and better than as many that chance
keeps: the first alone could be the fewer slices, the second alone could be less than all. These two are tested, at
equal steps, with Holm's correction; whatever else is compared is told and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.evaluate.evidence import Difference, Seeds, detectable, difference, holm, seeds_needed, verdict
from lim_gpu.evaluate.grid import CONTROL, EVERY, UNTRAINED, Finetune, Grid, Pretrain, Reduce, Task, claim_arms
from lim_gpu.evaluate.negatives import NEGATIVES
from lim_gpu.evaluate.part import table_lines
from lim_gpu.files import read_json
from lim_gpu.finetune.results import read_finished
from lim_gpu.progress import counted
from lim_gpu.report.figures import INK, SERIES

PICTURE = "claim.png"
SDS = (
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
)  # of paired differences: what was seen with some hundred test images, and about it
GAIN = 0.03
STEPS, EPOCHS = ", equal steps", ", equal epochs"
TITLES = {"all": "all", "hash 6": "hash 6", CONTROL: "random", EVERY: "every-n"}


@dataclass(frozen=True)
class Comparison:
    """Two arms by title; `primary` ones decide."""

    arm: str
    other: str
    primary: bool = False

    @property
    def title(self) -> str:
        """For people: the budget once, at the end."""
        budget = next((budget for budget in (STEPS, EPOCHS) if self.arm.endswith(budget)), "")
        return f"{self.arm.removesuffix(budget)} less {self.other.removesuffix(budget)}{budget}"


@dataclass(frozen=True)
class Row:
    """A comparison of a task, and what it says; adjusted: by Holm, of primary ones."""

    task: str
    comparison: Comparison
    found: Difference
    adjusted: float | None

    @property
    def verdict(self) -> str:
        """ "shown", "not shown" or "too small to tell"; of others than primary ones by their own p."""
        return verdict(self.found, self.found.p if self.adjusted is None else self.adjusted)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        named = {"task": self.task, "comparison": self.comparison.title, "primary": self.comparison.primary}
        return named | asdict(self.found) | {"p_holm": self.adjusted, "verdict": self.verdict}


def title(arm: Pretrain) -> str:
    """What an arm was pre-trained on, and for how long."""
    negatives = f", {NEGATIVES[arm.negatives].title}" if arm.negatives else ""
    budget = {"both": "", "steps": STEPS, "epochs": EPOCHS}[arm.budget]
    return TITLES[arm.reduce.name] + negatives + budget


def comparisons(arms: Sequence[Pretrain]) -> list[Comparison]:
    """Those of the arms of one seed: HASH-6 with every other at equal steps and at equal epochs; NEGATIVES with all."""
    whole = next(title(arm) for arm in arms if arm.reduce.name == "all" and not arm.negatives)
    found = []
    for budget in ("steps", "epochs"):
        own = [arm for arm in arms if arm.budget == budget]
        if not own:
            continue
        chosen = next(title(arm) for arm in own if arm.reduce.name == "hash 6")
        others = [title(arm) for arm in own if arm.reduce.name != "hash 6"]
        found += [Comparison(chosen, others[0], budget == "steps"), Comparison(chosen, whole, budget == "steps")]
        found += [Comparison(chosen, other) for other in others[1:]]
    return found + [Comparison(title(arm), whole) for arm in arms if arm.negatives]


def seeds_done(grid: Grid, output: Path, arms: Sequence[Pretrain]) -> int:
    """Seeds, from the first on, of which all tasks of these arms are done."""
    wanted = [
        [output / Finetune(arm.seeded(seed), task).folder / "results.json" for arm in arms for task in grid.tasks]
        for seed in range(grid.seeds)
    ]
    whole = [all(path.exists() for path in paths) for paths in wanted]
    return whole.index(False) if False in whole else grid.seeds


def whole_seeds(grid: Grid, output: Path) -> int:
    """Seeds of which everything is done but, perhaps, arms of NEGATIVES, which decide nothing."""
    return seeds_done(grid, output, [arm for arm in claim_arms(grid) if not arm.negatives])


def compared(grid: Grid, output: Path, seed: int) -> list[Row]:
    """Every comparison of every task over the seeds that are whole, and have both of its arms.

    seed: of the draws of test patients.
    """
    arms, whole = {title(arm): arm for arm in claim_arms(grid)}, whole_seeds(grid, output)
    found: list[tuple[str, Comparison, Difference]] = []
    for task in grid.tasks if whole else ():
        positive = _positive(arms["all"], task, output)
        for one in comparisons(list(arms.values())):
            pair = arms[one.arm], arms[one.other]
            if number := min(whole, seeds_done(grid, output, pair)):
                arm, other = (_predictions(side, task, number, output) for side in pair)
                found.append((task.name, one, difference(arm, other, positive, seed)))
    primary = [told.p for _, one, told in found if one.primary]
    adjusted = iter(holm(primary))
    return [Row(task, one, told, next(adjusted) if one.primary else None) for task, one, told in found]


def _predictions(arm: Pretrain, task: Task, seeds: int, output: Path) -> Seeds:
    return [read_finished(output / Finetune(arm.seeded(seed), task).folder)[1] for seed in range(seeds)]


def _positive(arm: Pretrain, task: Task, output: Path) -> int:
    config, _ = read_finished(output / Finetune(arm, task).folder)
    classes = list(config["data"]["classes"])
    return classes.index(config["positive"]) if config["positive"] else 1


def sentence(rows: Sequence[Row], budget: str) -> str:
    """The verdict on a task, with what it rests on."""
    primary = [row for row in rows if row.comparison.primary]
    said = {row.verdict for row in primary}
    overall = "too small to tell" if "too small to tell" in said else ("shown" if said == {"shown"} else "not shown")
    told = "; ".join(f"{row.comparison.title} {_gain(row.found)}, p = {row.adjusted:.3f}" for row in primary)
    return f"{primary[0].task}: that less is more is {overall} ({told}; {budget})"


def _gain(found: Difference) -> str:
    interval = "" if found.interval is None else f" [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"
    return f"{found.mean:+.3f}{interval}"


@dataclass(frozen=True)
class Section:
    """What is told of a task: a sentence, and two tables, the first line of each its head."""

    sentence: str
    tables: tuple[list[tuple[str, ...]], list[tuple[str, ...]]]


def _section(task: Task, rows: Sequence[Row], grid: Grid, output: Path) -> Section:
    seeds = len(rows[0].found.seeds)
    arms = [("pre-trained on", "slices", "steps", "AUC, mean ± sd over seeds"), *_arm_rows(grid, task, output, seeds)]
    compared = [("AUC of", "mean", "95 %", "p", "p by Holm", "less is more"), *(_cells(row, seeds) for row in rows)]
    return Section(sentence(rows, _budget(grid, output, seeds)), (arms, compared))


def markdown(sections: Sequence[Section]) -> list[str]:
    """Lines for people."""
    lines = ["## Is less more?", ""]
    if not sections:
        return [*lines, "No seed is whole yet.", ""]
    for section in sections:
        lines += [f"**{section.sentence}**", ""]
        for head, *rows in section.tables:
            lines += [*table_lines(head, rows), ""]
    return [*lines, f"![The difference of every seed]({PICTURE})", "", *(f"- {note}" for note in NOTES), ""]


NOTES = (
    "the unit is the seed of the pre-training: with one seed all arms begin with the same weights and are fine-tuned "
    "in the same folds; p is one-sided, by flipping the signs of the seeds' differences",
    "the interval is Student's over seeds and test patients; wider than ± 0.03 with 0 in it, it is too small to tell",
    "equal steps: warm-up, queue and frozen prototypes are those of all slices, counted in steps",
)


def _budget(grid: Grid, output: Path, seeds: int) -> str:
    steps = read_json(output / claim_arms(grid)[0].folder / "job.json").get("steps")
    return f"{grid.method}, {grid.pretrain['backbone']}, {steps:,} steps, {counted(seeds, 'seed')}"


def _arm_rows(grid: Grid, task: Task, output: Path, seeds: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for arm in claim_arms(grid):
        number = min(seeds, seeds_done(grid, output, [arm]))
        if not number:
            continue
        own = [arm.seeded(seed) for seed in range(number)]
        means = [read_json(output / Finetune(one, task).folder / "results.json")["auc"]["mean"] for one in own]
        kept = read_json(output / Reduce(arm.reduce.store, arm.reduce.name).folder / "job.json").get("kept", 0)
        steps = read_json(output / arm.folder / "job.json").get("steps", 0)
        found.append((title(arm), f"{kept:,}", f"{steps:,}", _mean(means) + _fewer(number, seeds)))
    for init in UNTRAINED:
        path = output / Finetune(None, task, init).folder / "results.json"
        if path.exists():
            found.append((f"nothing ({init} weights)", "", "", _mean([read_json(path)["auc"]["mean"]])))
    return found


def _mean(values: Sequence[float]) -> str:
    sd = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{sd}"


def _fewer(seeds: int, whole: int) -> str:
    return f" ({counted(seeds, 'seed')})" if seeds < whole else ""


def _cells(row: Row, seeds: int) -> tuple[str, ...]:
    interval = row.found.interval
    spread = "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    adjusted = "" if row.adjusted is None else f"{row.adjusted:.3f}"
    said = f"**{row.verdict}**" if row.comparison.primary else ""
    title = row.comparison.title + _fewer(len(row.found.seeds), seeds)
    return title, f"{row.found.mean:+.3f}", spread, f"{row.found.p:.3f}", adjusted, said


def draw(rows: Sequence[Row]) -> Any:
    """Every seed's difference as a dot, the mean and its interval as a line, a row a comparison."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        colour = SERIES[0] if row.comparison.primary else INK
        axes.plot(row.found.seeds, [place] * len(row.found.seeds), "o", color=colour, alpha=0.45, markersize=5)
        if row.found.interval is not None:
            axes.plot(row.found.interval, [place, place], color=colour, linewidth=2)
        axes.plot([row.found.mean], [place], "|", color=colour, markersize=16, markeredgewidth=2.5)
    several = len({row.task for row in rows}) > 1
    labels = [f"{row.task}: {row.comparison.title}" if several else row.comparison.title for row in rows]
    axes.set_yticks(range(len(rows)), labels[::-1], fontsize=8)
    axes.axvline(0, color=INK, linewidth=1, linestyle=":")
    axes.set(xlabel="difference of AUC: a dot a seed, the mean and its 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
    return figure


@dataclass(frozen=True)
class Told:
    """The claim for a page, a section a task: none before the first seed is whole; nor is the figure there then."""

    sections: list[Section]
    values: dict[str, Any]
    figure: Any


def told(grid: Grid, output: Path, seed: int) -> Told:
    """What is known so far."""
    rows = compared(grid, output, seed)
    own = {task: [row for row in rows if row.task == task.name] for task in grid.tasks} if rows else {}
    sections = [_section(task, of_task, grid, output) for task, of_task in own.items()]
    values = {"seeds": whole_seeds(grid, output), "rows": [row.values() for row in rows]}
    return Told(sections, values | {"sentences": [one.sentence for one in sections]}, draw(rows) if rows else None)


def power_lines(grid: Grid) -> list[str]:
    """For a plan: what so many seeds can show, for deviations of paired differences as they may be."""
    seeds, tests = grid.seeds, sum(one.primary for one in comparisons(claim_arms(grid))) * len(grid.tasks)
    smallest = min(1.0, tests * 2.0**-seeds)
    lines = [f"the smallest p of {counted(seeds, 'seed')} is {smallest:.3f} after Holm's correction for {tests} tests"]
    if smallest >= 0.05:
        lines.append("too few to show anything: give more --seeds")
    lines.append(f"{'sd of a pair':>14s}{'seen with power 0.8':>22s}{f'seeds for +{GAIN:g}':>18s}")
    for sd in SDS:
        gain, needed = detectable(sd, seeds), seeds_needed(GAIN, sd)
        lines.append(f"{sd:>14g}{'nothing' if gain is None else f'+{gain:.3f}':>22s}{needed or 'over 1000':>18}")
    return lines
