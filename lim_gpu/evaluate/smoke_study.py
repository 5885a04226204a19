"""Procedural data on which T2 to T6 run on a CPU in minutes: they show that all of it works, and nothing else.

Patients are phantoms. Half of them have a bright spot, which is the label and the mask, and half a bright corner, which
is their sex; their age is in no pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.evaluate.smoke import SIDE, grey, make_store, save
from lim_gpu.evaluate.study import ATTRIBUTES, CLASSIFICATION, HELD_OUT, SEGMENTATION, TRAIN, Study, Task
from lim_gpu.files import csv_text, write_text
from lim_gpu.ingest import ingest
from lim_gpu.phantom import phantom
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

CAVEAT = "smoke: phantoms, planted labels and a few steps of small networks: no number here means anything"
PATIENTS, SLICES, SPOT = 20, 4, 12
FRACTIONS = (0.25, 0.5, 1.0)
PRETRAIN: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "backbone": "vqae-small",
    "preset": "recommended",
    "set": {"channels": 1, "reconstruct.size": 16, "orientation.size": 32},
}
FINETUNE: dict[str, Any] = {"runs": 2, "epochs": 3, "head_epochs": 0, "batch_size": 8, "size": 32, "lr": 1e-3}
BASELINE: dict[str, Any] = {"backbone": "resnet18", "init": "random"}


def smoke_study(folder: Path) -> Study:
    """Over the data that `make_study_data` makes below `folder`."""
    data = {"data": folder / "patients", "labels": folder / "patients.csv"}
    tasks = {
        CLASSIFICATION: Task(FINETUNE | data | {"choose": "auc"}, ("spot",), FRACTIONS),
        SEGMENTATION: Task(FINETUNE | data | {"epochs": 2}, fractions=FRACTIONS[:2]),  # its decoder is what costs most
        ATTRIBUTES: Task(FINETUNE | data | {"flip": False}, ("sex", "age"), (1.0,)),
    }
    stores = {name: folder / name for name in (TRAIN, HELD_OUT)}
    return Study(stores, pretrain=PRETRAIN, tasks=tasks, baseline=BASELINE, caveats=(CAVEAT,))


def make_study_data(folder: Path, seed: int, reporter: Reporter) -> None:
    """Make the stores of T2, and the one of labelled patients, below `folder`, once."""
    for place, name in enumerate((TRAIN, HELD_OUT)):
        make_store(folder, name, f"{name}-sources", seed + 50 * place, reporter)
    make_patients(folder, seed, reporter)


def make_patients(folder: Path, seed: int, reporter: Reporter) -> None:
    """Make the store of labelled patients and its table, once."""
    table, sources = folder / "patients.csv", folder / "patients-sources"
    if table.exists():
        return
    for number in range(PATIENTS):
        _write_patient(sources / f"patient-{number:02d}", number, seed)
    ingest([sources], folder / "patients", keep_identifiers=True, overwrite=True, reporter=reporter)
    with SliceStore(folder / "patients") as store:
        keys = [entry.key for entry in store.volumes]
    rows = [row for number, key in enumerate(keys) for row in _rows(folder, number, key, seed)]
    write_text(table, csv_text(("volume", "slice", "patient", "spot", "mask", "sex", "age"), rows))


def _write_patient(folder: Path, number: int, seed: int) -> None:
    for i, image in enumerate(grey(phantom("chest", SLICES, SIDE, SIDE, seed + 200 + number))):
        if number % 2:
            image[_spot(number, i, seed)] = 255
        if _sex(number) == "F":
            image[:SPOT, :SPOT] = 200
        save(folder / f"{i:03d}.png", image)


def _rows(folder: Path, number: int, key: str, seed: int) -> list[tuple[Any, ...]]:
    """The lines of a patient's slices, whose masks are written."""
    found = []
    for i in range(SLICES):
        mask = f"masks/{number:02d}-{i:03d}.png" if number % 2 else ""
        if mask:
            drawn = np.zeros((SIDE, SIDE), dtype=np.uint8)
            drawn[_spot(number, i, seed)] = 255
            save(folder / mask, drawn)
        age = "30-39" if number // 4 % 2 else "60-69"
        found.append((key, i, f"patient-{number:02d}", ("clear", "spot")[number % 2], mask, _sex(number), age))
    return found


def _sex(number: int) -> str:
    return "F" if number // 2 % 2 else "M"


def _spot(number: int, slice_: int, seed: int) -> tuple[slice, slice]:
    row, column = np.random.default_rng([seed, number, slice_]).integers(SIDE // 4, SIDE // 2, 2).tolist()
    return slice(row, row + SPOT), slice(column, column + SPOT)
