"""What a segmentation found: results.json and the files beside it, and the difference to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import csv_text, replacing, write_json, write_text
from lim_gpu.finetune.folder import VERSION, RunFolder
from lim_gpu.finetune.metrics import summary
from lim_gpu.finetune.overlap import OVERLAPS, Overlaps, interval, mean
from lim_gpu.finetune.report import markdown_table, score_row
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.results import Run, sizes
from lim_gpu.labelled.table import Table
from lim_gpu.spread import spread_evenly

SHOWN = 8  # images in overlays.png
TRUE, PREDICTED = "#2ca02c", "#d62728"  # colours of the outlines


def write_overlaps(
    folder: RunFolder, request: Request, table: Table, candidates: Sequence[str], runs: Sequence[Run]
) -> None:
    """Write overlaps.csv, results.md and results.json, the last."""
    results: dict[str, Any] = {"format": "lim-gpu-finetune-results", "version": VERSION, "fingerprint": folder.asked}
    results |= {"task": request.task, "images": len(table)} | score_summaries(
        [run.predictions for run in runs], request
    )
    results |= {"start": [candidates[number] for number in sorted({run.chosen for run in runs})]}
    results |= {"protocol": request.protocol.describe(), "runs": [_run_record(run, candidates) for run in runs]}
    results["candidates"] = [_candidate_record(number, name, runs) for number, name in enumerate(candidates)]
    write_text(folder.path / "overlaps.csv", overlaps_csv(table, runs))
    write_text(folder.path / "results.md", overlaps_markdown(results))
    write_json(folder.results, results)


def score_summaries(tests: Sequence[Overlaps], request: Request) -> dict[str, Any]:
    """Mean, sd, runs and interval of Dice and IoU; and how often something is marked where nothing is."""
    found: dict[str, Any] = {}
    for name in OVERLAPS:
        found[name] = summary([mean(getattr(test, name)) for test in tests])
        found[name]["interval"] = interval([(test.groups, getattr(test, name)) for test in tests], request.seed)
    empty = sum(int(np.isnan(test.dice).sum()) for test in tests)
    return found | {"empty": empty, "false_alarms": sum(int(test.false_alarms.sum()) for test in tests)}


def _run_record(run: Run, candidates: Sequence[str]) -> dict[str, Any]:
    chosen = run.trained[run.chosen]
    record = sizes(run.split) | {"start": candidates[run.chosen], "epoch": chosen["epoch"]}
    record |= {name: chosen[name] for name in ("val_dice", "val_iou", "val_loss", "normalisation")}
    return record | {"scores": {name: mean(getattr(run.predictions, name)) for name in OVERLAPS}}


def _candidate_record(number: int, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    means = {key: float(np.mean([run.trained[number][key] for run in runs])) for key in ("val_dice", "val_loss")}
    return {"name": name, "chosen": [run.chosen for run in runs].count(number)} | means


def overlaps_csv(table: Table, runs: Sequence[Run]) -> str:
    """overlaps.csv: a row for every test image of every run, empty where nothing is marked in truth."""
    rows = []
    for run in runs:
        found = run.predictions
        for place, *values, alarm in zip(found.places, found.dice, found.iou, found.false_alarms, strict=True):
            texts = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
            rows.append([run.split.run, run.split.seed, table.files[place], *texts, int(alarm)])
    return csv_text(["run", "seed", "file", "dice", "iou", "false_alarm"], rows)


def overlaps_markdown(results: dict[str, Any]) -> str:
    """results.md: scores and runs."""
    header = ["score", "mean", "sd", "95 % interval", "runs"]
    lines = [f"# Segmentation: {', '.join(results['start'])}", "", f"{results['images']:,} images.", ""]
    lines += markdown_table(header, [score_row(results, name) for name in OVERLAPS])
    lines += [
        "",
        "Of an image, at the size that the network sees, meant over test images on which something is marked;",
    ]
    lines += ["mean and standard deviation (ddof 1) over runs; the interval by bootstrap of patients and runs."]
    of_empty = f"{results['empty']}; of these with a false alarm: {results['false_alarms']}, all runs together."
    lines += [f"Images on which nothing is marked: {of_empty}"]
    lines += ["", "## Runs", ""]
    header = ["run", "seed", "train / val / test", "initial weights", "best epoch", "val Dice", "Dice", "IoU"]
    lines += markdown_table(header, [_run_row(run) for run in results["runs"]])
    lines += ["", "overlays.png: outlines of the truth green, of the prediction red, from the worst to the best image."]
    return "\n".join(lines) + "\n"


def _run_row(run: dict[str, Any]) -> list[Any]:
    parts = " / ".join(str(run[part]) for part in ("train", "val", "test"))
    scores = [f"{run['val_dice']:.4f}", *(f"{run['scores'][name]:.4f}" for name in OVERLAPS)]
    return [run["run"], run["seed"], parts, run["start"], run["epoch"], *scores]


def shown_places(found: Overlaps) -> NDArray[np.int64]:
    """Which test images are shown: evenly from the lowest Dice to the highest."""
    marked = np.flatnonzero(np.isfinite(found.dice))
    order = marked[np.argsort(found.dice[marked], kind="stable")]
    return order[spread_evenly(len(order), min(SHOWN, len(order)))]


def save_overlays(
    path: Path, grey: NDArray[np.uint8], true: NDArray[Any], predicted: NDArray[Any], titles: Sequence[str]
) -> None:
    """Draw images (n, H, W) with the outlines of two masks (n, H, W), the truth green and the prediction red."""
    from matplotlib.figure import Figure

    columns = min(4, max(1, len(grey)))
    rows = max(1, -(-len(grey) // columns))
    figure: Any = Figure(figsize=(2.6 * columns, 2.95 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, own, other, title in zip(panels, grey, true, predicted, titles, strict=False):
        panel.imshow(image, cmap="gray")
        for mask, colour in ((own, TRUE), (other, PREDICTED)):
            if mask.any():
                panel.contour(mask.astype(float), levels=[0.5], colors=colour, linewidths=1)
        panel.set_title(title, fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
