"""What a fine-tuning shows: a table for people, the predictions, and the ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import csv_text, replacing
from lim_gpu.finetune.metrics import MAIN, Predictions
from lim_gpu.labelled.table import Table

NAMES = {"auc": "AUC", "f1": "F1", "acc": "accuracy", "dice": "Dice", "iou": "IoU"}
NAMES |= {"sensitivity": "sensitivity", "specificity": "specificity"}
GRID = np.linspace(0, 1, 201)  # false positive rates at which curves of several runs are averaged


def results_markdown(results: dict[str, Any]) -> str:
    """results.md: scores, runs, classes, candidates."""
    title = f"# Fine-tuning: {', '.join(results['start'])}"
    classes = results["classes"]
    about = f"{results['images']:,} images of {len(classes)} classes. {results['auc_is']} {results['f1_is']}"
    if results.get("positive"):
        other = next(name for name in classes if name != results["positive"])
        about += f" Positive is {results['positive']}; `--positive {other}` gives the scores of the other."
    lines = [title, "", about]
    header = ["score", "mean", "sd", "95 % interval", "runs"]
    lines += ["", *markdown_table(header, [score_row(results, name) for name in NAMES if name in results]), ""]
    lines += ["Mean and sd (ddof 1) over runs; Student's 95 % interval over test images (patients) and runs."]
    if "sensitivity" in results:
        lines += [
            "Sensitivity and specificity: from Youden's threshold on, which was chosen on validation; "
            "F1, accuracy and confusion: by the likelier class."
        ]
    lines += ["", "## Runs", ""]
    header = ["run", "seed", "train / val / test", "initial weights", "best epoch", "val accuracy"]
    header += [NAMES[name] for name in MAIN]
    lines += markdown_table(header, [_run_row(run) for run in results["runs"]])
    lines += [
        "",
        "## Classes",
        "",
        *markdown_table(["class", "F1 mean", "sd"], [_class_row(results, name) for name in results["classes"]]),
    ]
    lines += [
        "",
        f"Confusion, all runs together (rows true, columns predicted), classes {', '.join(results['classes'])}:",
        "",
    ]
    lines += markdown_table(
        ["", *results["classes"]], [[n, *row] for n, row in zip(results["classes"], results["confusion"], strict=True)]
    )
    if len(results["candidates"]) > 1:
        lines += ["", f"## Candidates: {len(results['candidates'])}, chosen on validation", ""]
        rows = [[c["name"], f"{c['val_acc']:.4f}", f"{c['val_loss']:.4f}", c["chosen"]] for c in results["candidates"]]
        lines += markdown_table(["initial weights", "val accuracy", "val loss", "chosen in runs"], rows)
    return "\n".join(lines) + "\n"


def score_text(score: dict[str, Any], form: str = ".4f") -> str:
    """Mean, standard deviation and interval of a score, or of a difference with form "+.4f"."""
    spread = f" ± {score['sd']:.4f}" if score["sd"] is not None else ""
    interval = score["interval"]
    return f"{score['mean']:{form}}{spread}" + (
        f"  95 % [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
    )


def score_row(results: dict[str, Any], name: str) -> list[Any]:
    """Cells of a score: its name, mean, sd, interval, and the value of every run."""
    score = results[name]
    sd = f"{score['sd']:.4f}" if score["sd"] is not None else ""
    limits = "{:.4f} .. {:.4f}".format(*score["interval"]) if score["interval"] else ""
    return [NAMES[name], f"{score['mean']:.4f}", sd, limits, " ".join(f"{value:.4f}" for value in score["runs"])]


def _run_row(run: dict[str, Any]) -> list[Any]:
    sizes = " / ".join(str(run[part]) for part in ("train", "val", "test"))
    cells = [run["run"], run["seed"], sizes, run["start"], run["epoch"], f"{run['val_acc']:.4f}"]
    return [*cells, *(f"{run['scores'][name]:.4f}" for name in MAIN)]


def _class_row(results: dict[str, Any], name: str) -> list[Any]:
    score = results["f1_of"][name]
    marked = f"{name} (positive)" if name == results["positive"] else name
    return [marked, f"{score['mean']:.4f}", f"{score['sd']:.4f}" if score["sd"] is not None else ""]


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table, its columns aligned."""
    texts = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def predictions_csv(table: Table, runs: Sequence[tuple[int, int, Predictions]]) -> str:
    """predictions.csv: a row for every test image of every run (number, seed, predictions)."""
    rows = []
    for run, seed, found in runs:
        for place, label, predicted, row in zip(
            found.places, found.labels, found.predicted, found.probabilities, strict=True
        ):
            cells = (f"{value:.9g}" for value in row)
            rows.append([run, seed, table.files[place], table.classes[label], table.classes[predicted], *cells])
    return csv_text(["run", "seed", "file", "label", "predicted", *(f"p_{name}" for name in table.classes)], rows)


def roc_curve(score: NDArray[Any], is_positive: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    _, level = np.unique(-score, return_inverse=True)
    up, down = (np.bincount(level, weights=side.astype(float)) for side in (is_positive, ~is_positive))
    return np.r_[0, np.cumsum(down) / down.sum()], np.r_[0, np.cumsum(up) / up.sum()]


def save_roc(
    path: Path, runs: Sequence[Predictions], classes: Sequence[str], positive: int, results: dict[str, Any]
) -> None:
    """Draw the ROC curves: every run thin, their mean thick; of the positive class, or of each against the rest."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(6.2, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), ":", color="0.6", linewidth=1)
    for number, c in enumerate([positive] if len(classes) == 2 else range(len(classes))):
        colour = f"C{number % 10}"
        curves = [roc_curve(run.probabilities[:, c], run.labels == c) for run in runs]
        if len(runs) == 1:
            axes.plot(*curves[0], color=colour, linewidth=2, label=str(classes[c]))
            continue
        for x, y in curves:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        mean = np.mean([np.interp(GRID, *_steps(x, y)) for x, y in curves], axis=0)
        axes.plot(np.r_[0, GRID], np.r_[0, mean], color=colour, linewidth=2, label=str(classes[c]))
    auc = results["auc"]
    spread = f" ± {auc['sd']:.3f}" if auc["sd"] is not None else ""
    count = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    axes.set_title(f"AUC {auc['mean']:.3f}{spread}, {count}")
    axes.legend(loc="lower right", title="positive" if len(classes) == 2 else "class against the rest", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _steps(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The highest true positive rate at each distinct false positive rate, for interpolation."""
    last = np.r_[np.flatnonzero(np.diff(x)), len(x) - 1]
    return x[last], y[last]
