"""A study whose fine-tunings are really done, from untrained weights alone: small, and made once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lim_gpu.evaluate.smoke_study import make_labelled, smoke_study
from lim_gpu.evaluate.study import SEGMENTATION, Study, jobs
from lim_gpu.evaluate.study_work import StudyWorker
from lim_gpu.progress import Reporter


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """The study, and the output of all its jobs of T3, T5 and T6."""
    folder = tmp_path_factory.mktemp("study")
    make_labelled(folder / "data", 0, Reporter(quiet=True))
    whole = smoke_study(folder / "data")
    tasks = {name: _short(name, task) for name, task in whole.tasks.items()}
    study = Study({}, tasks=tasks, baseline={"backbone": "vqae-small", "init": "calibrated"})
    worker = StudyWorker(study, folder / "out", "cpu", 0, Reporter(quiet=True))
    for job in jobs(("T3", "T5", "T6"), study):
        worker.do(job)
    return study, folder / "out"


def _short(name, task):
    backbone = "resnet18" if name == SEGMENTATION else "vqae-small"
    options = task.options | {"epochs": 2, "backbone": backbone, "batch_size": 16}
    return replace(task, options=options, fractions=task.fractions[-2:])
