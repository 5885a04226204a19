"""Tariq et al.'s Table II: each pretext task, trained on one store and scored on a store of other patients."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.part import Part
from lim_gpu.evaluate.study import CONTROL, Score, Study, starts
from lim_gpu.files import read_json

NAME = "T2"
METRICS = {"mse": "MSE", "masked_mse": "masked MSE", "ssim": "SSIM", "cross_entropy": "cross-entropy"} | {
    "softmax_twice": "softmax twice",
    "auroc": "AUROC",
}
NOTES = (
    "ours: mean ± sd (ddof 1) over the volumes that were held out, of the first seed; the paper: over 128 volumes of "
    "its own",
    "without a network: copying the slice, leaving the square black, a median of 5 x 5 pixels, guessing",
    "the paper's cross-entropies are of a softmax taken twice, whose floor is .7436 for four turns and .5514 for three",
    f"each stage of the curriculum was trained for longer than the one before; masked {CONTROL:g} alone as long as all",
)


def told(study: Study, output: Path) -> Part:
    """The table of what is done, and a picture of each row."""
    scored, images = {}, {}
    for start in starts(NAME, study):
        path = output / Score(start).folder / "pretext.json"
        if path.exists():
            scored[start.name] = read_json(path)
            images[f"{start.name}: input, output, target, difference"] = f"{Score(start).folder}/pretext.png"
    return Part(NAME, "Pretext tasks (Table II)", {"": table(scored)}, scored, NOTES, images=images)


def table(scored: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line a row and metric: ours, without a network, the paper's."""
    published = json.loads(resources.files("lim_gpu.evaluate").joinpath("tariq2024.json").read_text(encoding="utf-8"))
    lines = [["task", "score", "network", "without a network", "paper"]]
    for name, values in scored.items():
        for metric, title in METRICS.items():
            if metric not in values["scores"]:
                continue
            network, trivial = (_cell(one["mean"], one["sd"]) for one in values["scores"][metric].values())
            paper = published["rows"].get(name.removesuffix(" alone"), {}).get(metric)
            lines.append([name, title, network, trivial, _cell(*paper) if paper else ""])
    return lines


def _cell(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" + (f" ± {sd:.4f}" if sd else "")
