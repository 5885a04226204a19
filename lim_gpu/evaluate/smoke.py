"""Procedural data on which all evaluations run on a CPU in minutes: they show that the grid works, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.evaluate.grid import Grid, Task
from lim_gpu.files import csv_text, replacing, write_text
from lim_gpu.ingest import ingest
from lim_gpu.phantom import phantom
from lim_gpu.progress import Reporter

SIDE = 64
VOLUMES = (("chest", 28), ("abdomen", 24), ("chest", 24), ("head", 20))
IMAGES = {"train": 36, "val": 12, "test": 24}
CAVEAT = "smoke: phantoms, a planted label, resnet18 of 32 pixels for an epoch: no number here means anything"
PRETRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "backbone": "resnet18",
    "preset": "recommended",
    "set": {
        "swav.large_size": 32,
        "swav.small_size": 32,
        "swav.small_crops": 2,
        "swav.prototypes": 8,
        "swav.hidden": 32,
        "swav.output": 16,
        "swav.queue": 0,
        "moco.size": 32,
        "moco.output": 16,
        "moco.queue": 8,
        "spark.size": 64,
    },
}
FINETUNE: dict[str, Any] = {
    "runs": 2,
    "epochs": 2,
    "head_epochs": 1,
    "batch_size": 12,
    "size": 32,
    "backbone": "resnet18",
}


def smoke_grid(folder: Path) -> Grid:
    """The grid over the data that `make_data` makes below `folder`."""
    stores, tasks = {"procedural": folder / "slices"}, (Task("planted", folder / "task"),)
    few: dict[str, Any] = {"strengths": (1.0, 1.5), "keeps": (0.3,)}
    return Grid(stores, tasks, None, ("epochs", "steps"), 1, PRETRAIN, FINETUNE, (CAVEAT,), "moco", **few)


def make_data(folder: Path, seed: int, reporter: Reporter) -> None:
    """Make a store and a labelled folder below `folder`, once."""
    task = folder / "task"
    make_store(folder, "slices", "sources", seed, reporter)
    if not (task / "split.csv").exists():
        _write_task(task, seed)


def make_store(folder: Path, name: str, sources: str, seed: int, reporter: Reporter) -> None:
    """Make the store `name` of phantoms below `folder`, once."""
    if not (folder / name / "store.json").exists():
        _write_volumes(folder / sources, seed)
        ingest([folder / sources], folder / name, keep_identifiers=True, overwrite=True, reporter=reporter)


def _write_volumes(folder: Path, seed: int) -> None:
    for number, (kind, slices) in enumerate(VOLUMES):
        for i, image in enumerate(grey(phantom(kind, slices, SIDE, SIDE, seed + number))):
            save(folder / f"volume-{number}" / f"{i:03d}.png", image)


def _write_task(folder: Path, seed: int) -> None:
    """Slices of other phantoms, half of them with a bright spot: the label."""
    rng = np.random.default_rng([seed, 99])
    rows = []
    for place, (part, count) in enumerate(IMAGES.items()):
        for i, image in enumerate(grey(phantom("chest", count, SIDE, SIDE, seed + 100 + place))):
            spot = i % 2
            if spot:
                row, column = rng.integers(SIDE // 3, SIDE // 2, 2)
                image[row : row + 8, column : column + 8] = 255
            name = f"{part}-{i:03d}.png"
            save(folder / name, image)
            rows.append((name, ("clear", "spot")[spot], part))
    write_text(folder / "split.csv", csv_text(("file", "label", "split"), rows))


def grey(hu: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """HU as pictures."""
    return np.clip((hu.astype(np.float32) + 1024) / 2048 * 255, 0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray[Any, Any]) -> None:
    """As PNG."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
