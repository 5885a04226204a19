"""The evaluations of Tariq, Patel and Banerjee: pretext tasks, and what they are good for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate import attributes, curves, pretext
from lim_gpu.evaluate.disk import Networks
from lim_gpu.evaluate.equal import CHECKPOINT_EVERY
from lim_gpu.evaluate.estimate import Planned
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.evaluate.paper import Failures, Paper, write_results
from lim_gpu.evaluate.part import Part, markdown
from lim_gpu.evaluate.smoke_study import make_study_data, smoke_study
from lim_gpu.evaluate.study import HELD_OUT, NAMES, RANDOM, RUNS, TASK_OF, TRAIN, Study, Train, Tune, jobs, tunings
from lim_gpu.evaluate.study_file import read_study
from lim_gpu.evaluate.study_page import write_study
from lim_gpu.evaluate.study_work import StudyWorker, request, with_absolute_paths
from lim_gpu.finetune.data import read_data
from lim_gpu.finetune.splits import DEFAULT_RUNS, splits_of
from lim_gpu.pretrain.pairs import paired
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import open_selected
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.load import told_beside


@dataclass(frozen=True)
class Tariq2024(Paper):
    """Evaluations T2 to T6 of a study."""

    asked: tuple[str, ...]
    study: Study
    names = NAMES
    page = "pretext"
    options_file = "pretext-options.json"

    @classmethod
    def of(cls, asked: tuple[str, ...], config: Path | None, data: Path, seeds: int | None) -> Tariq2024:
        """Of a file; without one of phantoms. Raises UsageError where it lacks what is asked for."""
        study = read_study(config) if config is not None else smoke_study(data)
        for name in asked:
            if name in TASK_OF and TASK_OF[name] not in study.tasks:
                raise UsageError(f"{config}: evaluation {name} needs [{TASK_OF[name]}]. Give its data there")
        if "T2" in asked and HELD_OUT not in study.stores:
            raise UsageError(f"{config}: evaluation T2 scores slices of other patients. Give {HELD_OUT} in [stores]")
        study = with_absolute_paths(study)  # jobs name checkpoints, and go to processes in other folders
        return cls(asked, study if seeds is None else replace(study, seeds=seeds))

    def make_data(self, folder: Path, seed: int, reporter: Reporter) -> None:
        """Stores of phantoms, and a table over one."""
        make_study_data(folder, seed, reporter)

    def check(self, seed: int) -> None:
        """Raises InputError for data that are not there, and for tables from which no parts can be drawn."""
        for path in self.study.stores.values():
            SliceStore(path)  # reads the index
        files = list(self.study.checkpoints.values())
        for name in {TASK_OF[name]: None for name in self.asked if name in TASK_OF}:
            options = self.study.tasks[name].options
            files += [options[key] for key in ("data", "labels", "split") if key in options]
        for path in files:
            if not path.exists():
                raise InputError(f"{path}: does not exist. Correct its path in the configuration")
        self._check_parts(seed)

    def _check_parts(self, seed: int) -> None:
        asked = [job for name in self.asked if name in TASK_OF for job in tunings(name, self.study)]
        for job in {(job.task, job.target): job for job in asked if job.start == RANDOM}.values():
            wanted = request(self.study, job, (), seed)
            table = read_data(wanted, Reporter(quiet=True))
            splits_of(wanted, table, table.groups())

    def jobs(self) -> list[Job]:
        """Pretext tasks, and behind each what is made of it."""
        return jobs(self.asked, self.study)

    def options(self) -> dict[str, Any]:
        """Of pre-trainings; those of a fine-tuning stand in its own folder."""
        return {"pretrain": self.study.pretrain}

    def worker(self, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False) -> StudyWorker:
        """Trains, scores and fine-tunes."""
        return StudyWorker(self.study, output, device, seed, reporter, overwrite)

    def planned(self, job: Job, worker: JobWorker) -> Planned | None:
        """The training of a pretext task."""
        if not isinstance(job, Train) or not worker.has_stores():
            return None
        config, options, _ = self.study.trained(job.run, worker.seed + job.seed)
        store = self.study.stores[TRAIN]
        with open_selected(store) as slices:
            pairs = paired(slices, config.reconstruct.max_mm) if config.method == "next-slice" else slices
            return Planned(config, store, len(pairs), options.get("checkpoint_every", CHECKPOINT_EVERY))

    def networks(self, job: Job) -> Networks | None:
        """Of the backbone that was trained, or of the one that begins untrained. No later step needs one."""
        if not isinstance(job, Tune):
            return None
        asked, start = request(self.study, job, (), 0), job.start
        backbone = self.study.trained(start.run)[0].backbone if start.run else asked.backbone
        if start.file is not None:
            backbone = told_beside(start.file).get("backbone")
        return Networks(backbone, asked.folds or asked.runs or DEFAULT_RUNS, segments=asked.segments)

    def written(self, output: Path, seed: int, failures: Failures) -> tuple[dict[str, Any], list[str]]:
        """Write pretext.html, .md and .json, and a picture of each evaluation that has one."""
        parts = [self._told(name, output) for name in self.asked]
        caveats = self._caveats(seed)
        values: dict[str, Any] = {"format": "lim-gpu-evaluation", "version": 1, "caveats": caveats}
        values |= {"evaluations": {part.name: part.values for part in parts}, "failures": failures}
        page = output / f"{self.page}.html"
        return write_results(
            output, self.page, values, markdown(parts, caveats), lambda values: write_study(page, parts, values)
        )

    def _told(self, name: str, output: Path) -> Part:
        if name == pretext.NAME:
            return pretext.told(self.study, output)
        if name == attributes.NAME:
            return attributes.told(self.study, output)
        return curves.told(name, self.study, output)

    def _caveats(self, seed: int) -> list[str]:
        study = self.study
        told = [*study.caveats]
        if TRAIN in study.stores:
            config = study.trained("masked")[0]
            told.append(
                f"pretext tasks: {', '.join(RUNS)}; {config.backbone}, preset {config.preset}, {config.epochs} epochs, "
                f"batch {config.batch_size}, trained on {study.stores[TRAIN]}"
            )
        told += [f"scored on {study.stores[HELD_OUT]}"] if HELD_OUT in study.stores else []
        told += [f"{name}: {task.options['data']}" for name, task in study.tasks.items() if name in self._tasks()]
        return [*told, f"seeds from {seed}: {study.seeds}"]

    def _tasks(self) -> Sequence[str]:
        return [TASK_OF[name] for name in self.asked if name in TASK_OF]
