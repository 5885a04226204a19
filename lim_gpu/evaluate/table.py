"""The paper's tables with our numbers beside them, the picture of time against AUC, and the caveats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.evaluate.equal import configured
from lim_gpu.evaluate.grid import UNTRAINED, Finetune, Grid, Pretrain, Reduce, Task, analyses, pretrainings, seeded
from lim_gpu.evaluate.strength import STRENGTH_PICTURE
from lim_gpu.files import read_json
from lim_gpu.finetune.metrics import interval_of_means, summary
from lim_gpu.finetune.results import compare
from lim_gpu.report.figures import INK, SERIES
from lim_gpu.selection import read_record

TITLES = {
    "0": "No pre-training (Table 3)",
    "A": "Does reduction help? ALL against every-n (Table 4)",
    "B": "Which method? All keep 10 % (Table 5)",
    "C": "Which threshold of HASH? (Table 6)",
    "D": "How much is gained? ALL against HASH-6 (Figure 7)",
    "E": "Other pre-trainings: SwAV, MoCo v2, SparK (Table 7)",
    "F": "Strength of the augmentation against reduction",
}
TIME_PICTURE = "time-auc.png"
SCORES = ("auc", "f1", "acc")


def published() -> dict[str, Any]:
    """The paper's numbers, with the table that holds each."""
    text = resources.files("lim_gpu.evaluate").joinpath("published.json").read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text)
    return values


def table(evaluation: str, grid: Grid, output: Path) -> list[dict[str, Any]]:
    """A row for each kind of pre-training of an evaluation: ours where it is done, the paper's where the text has it.

    Of several seeds the mean over pre-trainings; "less_all": the AUC less that of ALL, seed by seed.
    """
    if evaluation == "0":
        return [_row(None, grid, output, init) for init in UNTRAINED]
    return [_row(start, grid, output) for start in pretrainings(evaluation, grid) if start.seed == 0]


def _row(start: Pretrain | None, grid: Grid, output: Path, init: str = "random") -> dict[str, Any]:
    row: dict[str, Any] = {"store": None, "reduction": None, "method": None, "budget": None, "init": init}
    if start is not None:
        row |= {"store": start.reduce.store, "reduction": start.reduce.name}
        row |= {"method": start.method, "budget": "equal steps" if start.budget == "steps" else "equal epochs"}
        row |= {"strength": start.strength}
        row |= _costs(start, output)
    row["tasks"] = {}
    for task in grid.tasks:
        folders = [output / Finetune(one, task, init).folder for one in _seeds(start, grid)]
        row["tasks"][task.name] = {
            "ours": _ours(folders),
            "paper": _paper(start, task.name) if init == "random" else None,
            "less_all": _less_all(start, folders, task, grid, output),
        }
    return row


def _seeds(start: Pretrain | None, grid: Grid) -> list[Pretrain | None]:
    return [start.seeded(seed) for seed in range(grid.seeds)] if start is not None else [None]


def _ours(folders: Sequence[Path]) -> dict[str, Any] | None:
    """Mean and deviation over the runs of one fine-tuning; over the means of several where there are several."""
    found = [read_json(folder / "results.json") for folder in folders if (folder / "results.json").exists()]
    if len(found) == 1 == len(folders):
        return {score: {key: found[0][score].get(key) for key in ("mean", "sd")} for score in SCORES}
    if len(found) < len(folders):
        return None
    return {score: summary([results[score]["mean"] for results in found]) for score in SCORES}


def _less_all(
    start: Pretrain | None, folders: Sequence[Path], task: Task, grid: Grid, output: Path
) -> dict[str, Any] | None:
    """Mean and 95 % interval of the AUC less that of ALL, of the same strength: over pre-trainings, or of one over its
    runs and images.
    """
    if start is None or start.reduce.name == "all":
        return None
    whole = seeded(grid, start.reduce.store, "all", start.method, "epochs")
    others = [output / Finetune(replace(one, strength=start.strength), task).folder for one in whole]
    try:
        if len(folders) == 1:
            return {key: compare(folders[0], others[0])["auc"][key] for key in ("mean", "interval")}
        first, second = ([read_json(f / "results.json")["auc"]["mean"] for f in side] for side in (folders, others))
    except LimGpuError:  # not done yet, or of other data
        return None
    differences = np.subtract(first, second)
    return {"mean": float(differences.mean()), "interval": interval_of_means(differences)}


def _paper(start: Pretrain | None, task: str) -> dict[str, Any] | None:
    if start is not None and start.strength != 1:
        return None
    asked = (start.reduce.store, start.reduce.name, start.method) if start else (None, None, None)
    for row in published()["rows"]:
        if (row["dataset"], row["reduction"], row["method"]) == asked and task in row["tasks"]:
            return {"table": row["table"], **row["tasks"][task]}
    return None


def _costs(start: Pretrain, output: Path) -> dict[str, Any]:
    """Slices kept, steps and seconds of the pre-training, as far as it is done."""
    costs: dict[str, Any] = {}
    try:
        costs["slices"] = read_record(output / start.reduce.folder / "selection.json")["counts"]["kept"]
        job = read_json(output / start.folder / "job.json")
    except InputError:
        return costs
    hours = published()["pretrain_hours"].get(start.reduce.store, {}).get(start.reduce.name)
    paper = hours if start.method == "swav" else None
    return costs | {"steps": job["steps"], "seconds": job["seconds"], "device": job["device"], "paper_hours": paper}


def cells(rows: Sequence[dict[str, Any]], grid: Grid) -> list[list[str]]:
    """A table as text, its head first: mean ± sd over the runs; the paper's in brackets."""
    tasks = [task.name for task in grid.tasks]
    head = [
        "pre-training",
        "slices",
        "steps",
        "time",
        *(f"{task} {score}" for task in tasks for score in ("AUC", "AUC less ALL", "F1")),
    ]
    lines = [head]
    for row in rows:
        line = [name(row), _count(row.get("slices")), _count(row.get("steps")), _time(row)]
        for task in tasks:
            both = row["tasks"][task]
            difference = _difference(both["less_all"])
            line += [_cell(both["ours"], both["paper"], "auc"), difference, _cell(both["ours"], both["paper"], "f1")]
        lines.append(line)
    return lines


def markdown(
    tables: dict[str, list[dict[str, Any]]],
    grid: Grid,
    found: Sequence[Found],
    notes: Sequence[str],
    first: Sequence[str] = (),
) -> str:
    """All tables and pictures as one text, behind the lines `first`; and under them once what a reader must know."""
    lines = list(first)
    for evaluation, rows in tables.items():
        head, *body = (f"| {' | '.join(line)} |" for line in cells(rows, grid))
        rule = f"|{' --- |' * (head.count('|') - 1)}"
        lines += [f"## Evaluation {evaluation}: {TITLES[evaluation]}", "", head, rule, *body, ""]
        if evaluation == "D":
            lines += [f"![Time of the pre-training against AUC]({TIME_PICTURE})", ""]
            lines += [f"- [{one.title}]({one.picture}): {one.line}" for one in found]
            lines += [""] if found else []
        if evaluation == "F":
            lines += [f"![Share of the slices against AUC, by strength]({STRENGTH_PICTURE})", ""]
    return "\n".join([*lines, "## What to know", "", *(f"- {note}" for note in notes), ""])


def name(row: dict[str, Any]) -> str:
    """What a row was pre-trained on, how, and for equal steps or epochs."""
    if row["reduction"] is None:
        return f"none ({row['init']} weights)"
    budget = "" if row["budget"] == "equal epochs" else ", equal steps"
    strength = f", strength {row['strength']:g}" if row["strength"] != 1 else ""
    return f"{row['store']} {row['reduction']}, {row['method']}{strength}{budget}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _time(row: dict[str, Any]) -> str:
    if row.get("seconds") is None:
        return ""
    paper = f" ({row['paper_hours']} h)" if row.get("paper_hours") else ""
    seconds = row["seconds"]
    return (f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s") + paper


def _difference(less_all: dict[str, Any] | None) -> str:
    if less_all is None:
        return ""
    low, high = less_all["interval"] or (None, None)
    return f"{less_all['mean']:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low is not None else "")


def _cell(ours: dict[str, Any] | None, paper: dict[str, Any] | None, score: str) -> str:
    own = "not run"
    if ours is not None and ours[score]["mean"] is not None:
        sd = ours[score]["sd"]
        own = f"{ours[score]['mean']:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
    if not paper or score not in paper:
        return own
    mean, deviation = paper[score]
    return f"{own} ({mean:.3f}" + (f" ± {deviation:.3f})" if deviation is not None else ")")


def time_picture(rows: Sequence[dict[str, Any]], grid: Grid) -> Any:
    """AUC of every task against the time of the pre-training (the paper's Figure 7); hollow: equal steps."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("seconds") is not None]
    figure = Figure(figsize=(max(6, 4.4 * len(grid.tasks)), 3.6 + 0.25 * len(rows)), layout="constrained")
    seconds = [row["seconds"] for row in rows]
    hours = bool(rows) and max(seconds) >= 3600
    for axes, task in zip(figure.subplots(1, len(grid.tasks), squeeze=False)[0], grid.tasks, strict=True):
        for place, row in enumerate(rows):
            ours = row["tasks"][task.name]["ours"]
            if ours is None or ours["auc"]["mean"] is None:
                continue
            colour = SERIES[place % len(SERIES)]
            face = "none" if row["budget"] == "equal steps" else colour
            time, score = row["seconds"] / (3600 if hours else 1), ours["auc"]
            about = {"color": colour, "markerfacecolor": face, "capsize": 3, "label": name(row)}
            axes.errorbar(time, score["mean"], score["sd"] or 0, fmt="o", **about)
        axes.set(title=task.name, xlabel=f"pre-training, {'hours' if hours else 'seconds'}", ylabel="AUC")
        if rows and max(seconds) > 20 * min(seconds):
            axes.set_xscale("log")
        axes.margins(0.1)
        axes.spines[:].set_color(INK)
        axes.tick_params(color=INK, which="both")
        axes.patch.set_alpha(0)
    entries = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    if entries:
        figure.legend(entries.values(), entries, loc="outside lower left", frameon=False, fontsize=9)
    return figure


@dataclass(frozen=True)
class Found:
    """An analysis that is done: its picture relative to the output folder, and what it found in a line."""

    title: str
    picture: str
    line: str


def found_analyses(grid: Grid, output: Path) -> list[Found]:
    """The analyses of evaluation D that stand in `output`."""
    done = []
    for job in analyses(grid):
        record = output / job.folder / "job.json"
        if record.exists():
            title = job.folder.removeprefix("analyse/").replace("/", ": ")
            done.append(Found(title, f"{job.folder}/{job.kind}.png", read_json(record)["line"]))
    return done


def caveats(asked: Sequence[str], grid: Grid, values: dict[str, Any]) -> list[str]:
    """What a reader must know before comparing our numbers with the paper's."""
    pretrain, finetune = values["pretrain"], values["finetune"]
    return [
        "ours: mean ± standard deviation (ddof 1) over the runs; in brackets the paper's, where its text has it",
        *grid.caveats,
        f"data: stores {', '.join(f'{name} ({path})' for name, path in grid.stores.items()) or 'none'}; "
        f"tasks {', '.join(f'{task.name} ({task.data})' for task in grid.tasks)}; none of them need be the paper's",
        f"pre-training: {_trainings(asked, grid)}; {pretrain['backbone']}, preset {pretrain['preset']}, "
        f"seeds from {values['seed']}: {grid.seeds}; the paper: SwAV 800 epochs, batch 128, resnet50, one seed",
        f"fine-tuning: {finetune['epochs']} epochs, {finetune['runs']} runs; the paper: five runs",
        "equal epochs give a reduced set fewer steps than ALL: fewer steps and other slices are one effect there; "
        "equal steps, with the warm-up, queue and frozen prototypes of ALL in steps, and as many random slices of each "
        "volume tell them apart",
        "calibrated: random weights whose batch norm has seen the training images, as that of every trained network "
        "has; what random weights score depends on it",
        "the paper's numbers are means of five fine-tunings of one pre-training each: its intervals do not hold the "
        "spread over pre-trainings, and ours only with several seeds",
    ]


def _trainings(asked: Sequence[str], grid: Grid) -> str:
    """Epochs and batch of each method that is trained, as its preset or the grid says."""
    found = []
    for method in dict.fromkeys(start.method for name in asked for start in pretrainings(name, grid)):
        config, _, _ = configured(grid, Pretrain(Reduce("", "all"), method), 0, lambda _name: 0)
        found.append(f"{method} {config.epochs} epochs, batch {config.batch_size}")
    return "; ".join(found) or "none"
