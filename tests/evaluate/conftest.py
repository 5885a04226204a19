"""A study whose fine-tunings are really done, from untrained weights alone: small, and made once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lim_gpu.evaluate.smoke_study import make_study_data, smoke_study
from lim_gpu.evaluate.study import Study, jobs
from lim_gpu.evaluate.study_work import StudyWorker
from lim_gpu.progress import Reporter


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """The study, and the output of all its jobs of T3, T5 and T6."""
    folder = tmp_path_factory.mktemp("study")
    make_study_data(folder / "data", 0, Reporter(quiet=True))
    whole = smoke_study(folder / "data")
    tasks = {name: _short(task) for name, task in whole.tasks.items()}
    study = Study({}, tasks=tasks, baseline=whole.baseline)
    worker = StudyWorker(study, folder / "out", "cpu", 0, Reporter(quiet=True))
    for job in jobs(("T3", "T5", "T6"), study):
        worker.do(job)
    return study, folder / "out"


def _short(task):
    options = task.options | {"epochs": 2, "backbone": "resnet18"}
    return replace(task, options=options, fractions=task.fractions[-2:])
