"""The report of runs: a pre-training's loss, rate and collapse meters, and the scores of what was fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError
from lim_gpu.files import parse_json, read_json
from lim_gpu.report import figures
from lim_gpu.report.page import file_uri, svg_text, write_page

PRETRAINING = "lim-gpu-pretraining"
PICTURES = {"ROC": "roc.png", "outlines of the truth (green) and the prediction (red)": "overlays.png"}
POINTS = 600  # of a curve


def write_run_report(folders: Sequence[Path], output: Path, made_of: str = "") -> None:
    """Write OUTPUT (.html) for run folders of pretrain and finetune. Raises InputError for a folder that is neither."""
    for folder in folders:
        check_run(folder)
    runs = [_pretraining(folder) for folder in folders if _is_pretraining(folder)]
    scores = [_scores(folder) for folder in folders if (folder / "results.json").is_file()]
    title = ", ".join(folder.name for folder in folders)
    write_page(output, "run.html", made_of=made_of, runs=runs, scores=scores, title=title)


def check_run(folder: Path) -> None:
    """Raise InputError for a folder that is no run of which something can be shown."""
    if (folder / "store.json").is_file():
        raise InputError(f"{folder}: is a store. Give a selection that lim-gpu reduce makes of it, or a run")
    if not _is_pretraining(folder) and not (folder / "results.json").is_file():
        what = "not a run of lim-gpu pretrain or finetune, or one that has not finished an epoch"
        raise InputError(f"{folder}: {what}. Give another")


def _is_pretraining(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file() and (folder / "config.json").is_file()


def _pretraining(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "config.json")
    if record.get("format") != PRETRAINING:
        raise InputError(f"{folder / 'config.json'}: is no run of lim-gpu pretrain. Give another folder")
    rows = [parse_json(line, folder / "metrics.jsonl") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not rows:
        raise InputError(f"{folder}: has written no numbers yet. Wait for its first epoch")
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step")))
    curves, meters = [], record.get("meters", {})  # unit and meaning; runs of earlier versions do not say
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if points:
            drawn = svg_text(figures.curve(*_thinned(points), name, log=name == "lr" and min(y for _, y in points) > 0))
            about = {key: meters.get(name, {}).get(key, "") for key in ("unit", "meaning")}
            curves.append({"name": name, "svg": drawn, "last": points[-1][1]} | about)
    return {
        "name": folder.name,
        "config": record["config"],
        "plan": (folder / "plan.txt").read_text(encoding="utf-8").splitlines(),
        "epochs": rows[-1]["epoch"] + 1,
        "steps": rows[-1]["step"] + 1,
        "asked": record["plan"]["total_steps"],
        "device": record["device"],
        "curves": curves,
        "views": file_uri(folder / "views.png") if (folder / "views.png").is_file() else None,
        "versions": record["versions"],
    }


def _thinned(points: list[tuple[int, float]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most POINTS points: each the mean of its neighbours, so that a long run draws as fast as a short one."""
    steps, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    parts = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _scores(folder: Path) -> dict[str, Any]:
    results = read_json(folder / "results.json")
    rows = []
    for name in ("auc", "f1", "acc", "dice", "iou"):
        if score := results.get(name):
            rows.append((name.upper(), score["mean"], score["sd"], score["runs"]))
    pictures = [(what, folder / file) for what, file in PICTURES.items() if (folder / file).is_file()]
    shown = [(what, file_uri(path)) for what, path in pictures]
    return {"name": str(folder.name), "positive": _positive(results), "rows": rows, "pictures": shown}


def _positive(results: dict[str, Any]) -> str:
    """Which class scores are of, and how those of the other come; "" where there are not two."""
    if not (positive := results.get("positive")):
        return ""
    other = next(name for name in results["classes"] if name != positive)
    return f"positive: {positive} (finetune --positive {other} for the other)"
