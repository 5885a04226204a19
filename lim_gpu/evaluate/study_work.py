"""Doing the jobs of the second paper's evaluations. Every job resumes by itself; its job.json tells what it cost."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.analyse.pretext import pretext
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.evaluate.study import BASELINE, HELD_OUT, RUNS, SEGMENTATION, TRAIN, Score, Start, Study, Task, Train, Tune
from lim_gpu.evaluate.study_file import INTENSITY, PROTOCOL
from lim_gpu.evaluate.work import cost_of_training
from lim_gpu.finetune.folder import drop_networks
from lim_gpu.finetune.protocol import Protocol, protocol
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.run import finetune
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Reporter


class StudyWorker(JobWorker):
    """Trains pretext tasks, scores them and puts them to use."""

    def __init__(
        self, study: Study, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False
    ) -> None:
        super().__init__(output, device, seed, reporter, overwrite)
        self.study = study

    @property
    def stores(self) -> dict[str, Path]:
        """Those of the study."""
        return self.study.stores

    def at(self, place: str) -> StudyWorker:
        """With absolute paths."""
        study, output = with_absolute_paths(self.study), self.output.absolute()
        return StudyWorker(study, output, place, self.seed, self.reporter, self.overwrite)

    def result(self, job: Job) -> dict[str, Any]:
        """Do a job, or find that it stands."""
        if isinstance(job, Train):
            return self._train(job)
        if isinstance(job, Score):
            return self._score(job)
        assert isinstance(job, Tune)
        return self._tune(job)

    def _train(self, job: Train) -> dict[str, Any]:
        _, options, overrides = self.study.trained(job.run)
        begin = partial(
            pretrain,
            self.study.stores[TRAIN],
            RUNS[job.run][0],
            output=self.output / job.folder,
            overrides=overrides,
            device=self.device,
            seed=self.seed + job.seed,
            reporter=self.reporter,
            **options,
        )
        return cost_of_training(begin, self.overwrite, self.record(job))

    def _score(self, job: Score) -> dict[str, Any]:
        folder = self.output / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, store = self._checkpoint(job.start, 0), self.study.stores[HELD_OUT]
        how: dict[str, Any] = {"seed": self.seed, "device": self.device, "reporter": self.reporter}
        outcome = pretext(checkpoint, store, folder / "pretext.png", overwrite=self.replaces(job), **how)
        return {"unchanged": "unchanged" in outcome.values}

    def _checkpoint(self, start: Start, seed: int) -> Path:
        if start.file is not None:
            return start.file
        name = "last.ckpt" if start.epoch is None else f"epoch={start.epoch}.ckpt"
        return self.output / Train(start.run, seed).folder / name

    def _tune(self, job: Tune) -> dict[str, Any]:
        untrained = not job.start.run and job.start.file is None
        checkpoints = () if untrained else (self._checkpoint(job.start, job.seed),)
        asked = request(self.study, job, checkpoints, self.seed)
        outcome = finetune(asked, self.output / job.folder, self.device, self.reporter, overwrite=self.overwrite)
        drop_networks(self.output / job.folder)
        return {"unchanged": outcome.values["unchanged"]}


def request(study: Study, job: Tune, checkpoints: tuple[Path, ...], seed: int) -> Request:
    """What `lim_gpu.finetune` is asked for. Without a checkpoint untrained weights of the same network, or baseline."""
    options = dict(study.tasks[job.task].options)
    if job.start == BASELINE:
        options |= study.baseline
    elif checkpoints:
        options |= {"backbone": None, "init": None}
    elif TRAIN in study.stores:
        options = {"backbone": study.trained("masked")[0].backbone} | options
    if job.frozen:
        options["head_epochs"] = options.get("epochs", Protocol.epochs)
        if not checkpoints:  # the fair control: every trained network's batch norm has seen images
            options["init"] = "calibrated"
    changes = {name: options.pop(name) for name in PROTOCOL if name in options}
    intensity = Intensity.parse(**{name: options.pop(name) for name in INTENSITY if name in options})
    return Request(
        protocol=protocol(options.pop("protocol", "wolf2024-paper"), **changes),
        checkpoints=checkpoints,
        seed=seed,
        target=job.target or None,
        fraction=job.fraction,
        intensity=intensity,
        task=SEGMENTATION if job.task == SEGMENTATION else "classification",
        **options,
    )


def with_absolute_paths(study: Study) -> Study:
    """The same for a process in another folder."""
    return replace(
        study,
        stores={name: path.absolute() for name, path in study.stores.items()},
        checkpoints={name: path.absolute() for name, path in study.checkpoints.items()},
        tasks={name: _absolute(task) for name, task in study.tasks.items()},
    )


def _absolute(task: Task) -> Task:
    found = {name: value.absolute() for name, value in task.options.items() if isinstance(value, Path)}
    return replace(task, options=task.options | found)
