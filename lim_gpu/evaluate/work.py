"""Doing the jobs of the evaluations. Every job resumes by itself; its job.json tells what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.analyse import analyse
from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate import disk
from lim_gpu.evaluate.control import as_many_at_random, as_many_evenly
from lim_gpu.evaluate.equal import configured
from lim_gpu.evaluate.grid import CONTROL, EVERY, Analysis, Finetune, Grid, Pretrain, Reduce
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.files import locked, read_json
from lim_gpu.finetune.folder import drop_networks
from lim_gpu.finetune.protocol import protocol
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.run import finetune
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.measure import borrow_hashes
from lim_gpu.reduction.parts import parts_folder
from lim_gpu.reduction.request import request_for
from lim_gpu.reduction.run import reduce
from lim_gpu.reduction.unit import units_of
from lim_gpu.selection import Selection, read_record
from lim_gpu.store.slices import SliceStore


class Worker(JobWorker):
    """Runs the jobs of a grid."""

    def __init__(
        self, grid: Grid, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False
    ) -> None:
        super().__init__(output, device, seed, reporter, overwrite)
        self.grid = grid

    @property
    def stores(self) -> dict[str, Path]:
        """Those of the grid."""
        return self.grid.stores

    def at(self, place: str) -> Worker:
        """With absolute paths."""
        grid, output = with_absolute_paths(self.grid), self.output.absolute()
        return Worker(grid, output, place, self.seed, self.reporter, self.overwrite)

    def result(self, job: Job) -> dict[str, Any]:
        """Do a job, or find that it stands."""
        if isinstance(job, Reduce):
            return self._reduce(job)
        if isinstance(job, Pretrain):
            return self._pretrain(job)
        if isinstance(job, Finetune):
            return self._finetune(job)
        assert isinstance(job, Analysis)
        return self._analyse(job)

    def kept(self, job: Reduce) -> tuple[int, int]:
        """Slices kept, and slices of the store, of a reduction that is done."""
        counts = read_record(self.output / job.folder / "selection.json")["counts"]
        return counts["kept"], counts["slices"]

    def _reduce(self, job: Reduce) -> dict[str, Any]:
        if job.name in (CONTROL, EVERY):
            return self._reduce_alike(job)
        options = job.options()
        if options["method"] == "deepnet":
            options["weights"] = self.grid.weights
        path = self.output / job.folder / "selection.csv"
        # several shards may need it at once: the first makes it, and the others find it; so with hashes of the store
        alone_in = path.parent.parent if options["method"] == "hash" else path.parent
        with locked(alone_in, patient=True), SliceStore(self.grid.stores[job.store]) as store:
            if options["method"] == "hash" and self.replaces(job):
                _borrow_hashes(store, path)
            more: dict[str, Any] = {"output": path, "device": self.device, "seed": self.seed}
            selection = reduce(store, **options, **more, overwrite=self.replaces(job), reporter=self.reporter)
        return {"kept": selection.record["counts"]["kept"], "seconds": selection.record["seconds"]}

    def _reduce_alike(self, job: Reduce) -> dict[str, Any]:
        like = Selection.load(self.output / Reduce(job.store, "hash 6").folder / "selection.csv")
        path = self.output / job.folder / "selection.csv"
        chosen = (as_many_at_random if job.name == CONTROL else as_many_evenly)(like, self.seed + job.seed)
        values = {"kept": len(chosen.kept()), "seconds": 0.0}
        with locked(path.parent, patient=True):
            if path.exists() and Selection.load(path).kept() == chosen.kept():
                return values | {"unchanged": True}
            chosen.save(path)
        return values

    def _pretrain(self, job: Pretrain) -> dict[str, Any]:
        def kept(name: str) -> int:
            return self.kept(Reduce(job.reduce.store, name))[0]

        _, options, overrides = configured(self.grid, job, self.seed + job.seed, kept)
        begin = partial(
            pretrain,
            self.grid.stores[job.reduce.store],
            job.method,
            selection=self.output / job.reduce.folder / "selection.csv",
            output=self.output / job.folder,
            overrides={name: value for name, value in overrides.items() if name != "seed"},
            device=self.device,
            seed=overrides["seed"],
            reporter=self.reporter,
            **options,
        )
        return cost_of_training(begin, self.overwrite, self.record(job))

    def _finetune(self, job: Finetune) -> dict[str, Any]:
        options = dict(self.grid.finetune)
        names = ("runs", "positive", "backbone")
        request: dict[str, Any] = {name: options.pop(name) for name in names if name in options}
        if job.task.folds is not None:
            request |= {"folds": job.task.folds, "runs": None, "ignore_split": True, "groups": job.task.groups}
        if job.pretrain is not None:
            request |= {"checkpoints": (self.output / job.pretrain.folder / "last.ckpt",), "backbone": None}
        else:
            request |= {"init": job.init}
        asked = Request(
            data=job.task.data,
            protocol=protocol(options.pop("protocol", "wolf2024-paper"), **options),
            seed=self.seed,
            **request,
        )
        outcome = finetune(asked, self.output / job.folder, self.device, self.reporter, overwrite=self.overwrite)
        drop_networks(self.output / job.folder, disk.kept(job, self.grid))
        return {"auc": outcome.values["auc"]["mean"], "unchanged": outcome.values["unchanged"]}

    def _analyse(self, job: Analysis) -> dict[str, Any]:
        if self.done(job) and not self.overwrite:
            return {"unchanged": True}
        second = self.output / job.second.folder
        if isinstance(job.second, Finetune):
            found = sorted((second / "runs").rglob("*.ckpt"))
            if not found:
                raise InputError(f"{second}: holds no fine-tuned network. Remove this folder, and run again")
            last = found[0]
        else:
            last = second / "last.ckpt"
        part = "test" if job.task.folds is None else "all"
        size = int(self.grid.finetune.get("size", 224))
        folder = self.output / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        result = analyse(
            job.kind,
            self.output / job.first.folder / "last.ckpt",
            last,
            job.task.data,
            folder / f"{job.kind}.png",
            part=part,
            size=size,
            seed=self.seed,
            device=self.device,
            overwrite=self.replaces(job),
            reporter=self.reporter,
        )
        return {"line": "; ".join(result.lines[:-1]), "unchanged": "unchanged" in result.values}


def _borrow_hashes(store: SliceStore, path: Path) -> None:
    """Of the other selections of a store by HASH: a threshold changes no hash."""
    asked, _ = request_for(Criterion("hash", Intensity()))
    others = path.parent.parent.glob("hash-*/*.parts")
    borrow_hashes(units_of(store.volumes, asked.scope), asked, parts_folder(path), others)


def cost_of_training(begin: Callable[..., Outcome], overwrite: bool, record: Path) -> dict[str, Any]:
    """Begin a pre-training or go on with it, and say what it cost; `record` says it of one that stands.

    overwrite: begin again where the one that stands was made otherwise.
    """
    try:
        values = begin(resume=True).values
    except UsageError:  # such as a run made otherwise
        if not overwrite:
            raise
        values = begin(overwrite=True).values
    if values["unchanged"]:
        return {"unchanged": True} | (read_json(record) if record.exists() else _cost_of_run(values))
    return {"steps": values["total_steps"], "seconds": values["seconds"], "device": values["device"]}


def _cost_of_run(values: dict[str, Any]) -> dict[str, Any]:
    """Of a run that was finished before its job.json was written: steps are known, the time is not."""
    return {"steps": values["total_steps"], "seconds": None, "device": "unknown"}


def with_absolute_paths(grid: Grid) -> Grid:
    """The same for a process in another folder."""
    return replace(
        grid,
        stores={name: path.absolute() for name, path in grid.stores.items()},
        tasks=tuple(
            replace(task, data=task.data.absolute(), groups=task.groups and task.groups.absolute())
            for task in grid.tasks
        ),
        weights=grid.weights and grid.weights.absolute(),
    )
