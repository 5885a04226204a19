"""Procedural data on which T2 to T6 run on a CPU in minutes: they show that all of it works, and nothing else.

T3 and T4 ask whether a slice of a chest after contrast shows an embolus, T5 outlines nodules. The patients of T6 are
other phantoms: half of them have a bright corner, which is their sex; their age is in no pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lim_gpu.evaluate.smoke import SIDE, grey, make_store, save
from lim_gpu.evaluate.study import ATTRIBUTES, CLASSIFICATION, HELD_OUT, SEGMENTATION, TRAIN, Study, Task
from lim_gpu.files import csv_text, write_text
from lim_gpu.ingest import ingest
from lim_gpu.labels.angiograms import make_angiograms
from lim_gpu.labels.make import TABLE
from lim_gpu.phantom import EMBOLI, NODULES, phantom
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

CAVEAT = "smoke: phantoms, planted labels and a few steps of small networks: no number here means anything"
ANGIOGRAMS: dict[str, Any] = {"patients": 9, "shape": (12, SIDE, SIDE)}
PATIENTS, SLICES, CORNER = 20, 4, 12
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
    chests = FINETUNE | {"data": folder / "angiograms"}
    emboli = chests | {"labels": folder / EMBOLI / TABLE, "window": "angio", "choose": "auc"}
    nodules = chests | {"labels": folder / NODULES / TABLE, "window": "lung", "epochs": 2}
    people = FINETUNE | {"data": folder / "patients", "labels": folder / "patients.csv", "flip": False}
    tasks = {
        CLASSIFICATION: Task(emboli, fractions=FRACTIONS),
        SEGMENTATION: Task(nodules, fractions=FRACTIONS[:2]),  # its decoder is what costs most
        ATTRIBUTES: Task(people, ("sex", "age"), (1.0,)),
    }
    stores = {name: folder / name for name in (TRAIN, HELD_OUT)}
    return Study(stores, pretrain=PRETRAIN, tasks=tasks, baseline=BASELINE, caveats=(CAVEAT,))


def make_study_data(folder: Path, seed: int, reporter: Reporter) -> None:
    """Make the stores of T2 and those that are labelled below `folder`, once."""
    for place, name in enumerate((TRAIN, HELD_OUT)):
        make_store(folder, name, f"{name}-sources", seed + 50 * place, reporter)
    make_labelled(folder, seed, reporter)


def make_labelled(folder: Path, seed: int, reporter: Reporter) -> None:
    """Make the stores of T3 to T6 and their tables below `folder`, once."""
    if not (folder / "patients.csv").exists():  # the last that is written
        make_angiograms(folder, seed, reporter, **ANGIOGRAMS)
        _make_patients(folder, seed, reporter)


def _make_patients(folder: Path, seed: int, reporter: Reporter) -> None:
    sources = folder / "patients-sources"
    for number in range(PATIENTS):
        _write_patient(sources / f"patient-{number:02d}", number, seed)
    ingest([sources], folder / "patients", keep_identifiers=True, overwrite=True, reporter=reporter)
    with SliceStore(folder / "patients") as store:
        keys = [entry.key for entry in store.volumes]
    rows = [
        (key, i, f"patient-{number:02d}", _sex(number), ("60-69", "30-39")[number // 4 % 2])
        for number, key in enumerate(keys)
        for i in range(SLICES)
    ]
    write_text(folder / "patients.csv", csv_text(("volume", "slice", "patient", "sex", "age"), rows))


def _write_patient(folder: Path, number: int, seed: int) -> None:
    for i, image in enumerate(grey(phantom("chest", SLICES, SIDE, SIDE, seed + 200 + number))):
        if _sex(number) == "F":
            image[:CORNER, :CORNER] = 200
        save(folder / f"{i:03d}.png", image)


def _sex(number: int) -> str:
    return "F" if number // 2 % 2 else "M"
