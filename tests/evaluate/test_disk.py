"""What fine-tunings need on the disk: as a plan says it, and as they leave it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision.models import resnet18

from lim_gpu.evaluate.disk import Networks, kept, needed
from lim_gpu.evaluate.grid import CLAIM, Analysis, Finetune, Grid, Task, jobs
from lim_gpu.evaluate.study import jobs as study_jobs
from lim_gpu.evaluate.study_work import StudyWorker
from lim_gpu.evaluate.tariq2024 import Tariq2024
from lim_gpu.evaluate.wolf2024 import Wolf2024
from lim_gpu.progress import Reporter

GRID = Grid(
    {"LIDC": Path("a")},
    (Task("COVID", Path("c"), folds=7), Task("head", Path("h"))),
    budgets=("epochs", "steps"),
    pretrain={"backbone": "resnet34", "spark": {"backbone": "resnet50"}},
    finetune={"runs": 3, "backbone": "resnet18"},
)


def test_networks_stay_where_an_analysis_looks_at_them():
    todo = jobs(("0", "C", "D", "E", CLAIM), GRID)
    seen = {job.second for job in todo if isinstance(job, Analysis) and isinstance(job.second, Finetune)}
    assert len(seen) == 2
    assert {job for job in todo if isinstance(job, Finetune) and kept(job, GRID)} == seen


def test_a_plan_knows_backbone_and_runs_of_every_fine_tuning():
    paper = Wolf2024(("0", "E"), GRID)
    found = {job.folder: paper.networks(job) for job in paper.jobs() if isinstance(job, Finetune)}
    assert found["finetune/none/COVID"] == Networks("resnet18", 7)
    assert found["finetune/LIDC/all/swav/head"] == Networks("resnet34", 3, kept=1)
    assert found["finetune/LIDC/all/spark/COVID"] == Networks("resnet50", 7)


def test_bytes_are_those_of_the_networks():
    own = sum(value.numel() * value.element_size() for value in resnet18(num_classes=2).state_dict().values())
    assert needed([Networks("resnet18", 5), Networks("resnet18", 3, kept=1), Networks("resnet18", 2, kept=1)]) == (
        5 * own,
        2 * own,
    )
    assert needed([]) == (0, 0)
    pytest.importorskip("monai")
    assert needed([Networks("resnet18", 1, segments=True)])[0] > own


def test_scores_stay_without_networks_and_an_interrupted_clearing_goes_on(tuned):
    study, output = tuned
    assert not list(output.glob("finetune/**/*.ckpt*"))
    todo = study_jobs(("T3",), study)
    left = output / todo[0].folder / "runs/1/candidate-0/best.ckpt"
    left.write_bytes(b"of a run that was stopped behind its scores")
    results = output / todo[0].folder / "results.json"
    before = results.stat().st_mtime_ns
    StudyWorker(study, output, "cpu", 0, Reporter(quiet=True)).do(todo[0])
    assert not left.exists()
    assert results.stat().st_mtime_ns == before
    asked = Tariq2024(("T3", "T5"), study)
    sizes = {found for job in asked.jobs() if (found := asked.networks(job))}
    assert sizes == {Networks("vqae-small", 2), Networks("resnet18", 2, segments=True)}
