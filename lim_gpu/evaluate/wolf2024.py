"""The evaluations of Wolf et al. 2024, section 3, as grids of reduce, pretrain and finetune jobs; is less more?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError
from lim_gpu.evaluate import claim
from lim_gpu.evaluate.config import read_grid
from lim_gpu.evaluate.disk import Networks, kept
from lim_gpu.evaluate.equal import options_of
from lim_gpu.evaluate.estimate import Planned, planned
from lim_gpu.evaluate.grid import CLAIM, EVALUATIONS, Finetune, Grid, jobs
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.evaluate.page import write_evaluation
from lim_gpu.evaluate.paper import Failures, Paper, write_results
from lim_gpu.evaluate.smoke import make_data, smoke_grid
from lim_gpu.evaluate.table import caveats, found_analyses, markdown, table
from lim_gpu.evaluate.work import Worker, with_absolute_paths
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

PRETRAIN = {"backbone": "resnet50", "preset": "wolf2024-paper"}  # epochs and batch are each method's own
FINETUNE = {"runs": 5, "epochs": 70}


@dataclass(frozen=True)
class Wolf2024(Paper):
    """Evaluations 0, A to E and the claim over the data of a grid."""

    asked: tuple[str, ...]
    grid: Grid
    names = EVALUATIONS
    page = "evaluation"
    options_file = "options.json"

    @classmethod
    def of(cls, asked: tuple[str, ...], config: Path | None, data: Path, seeds: int | None) -> Wolf2024:
        """The grid of a file, or the procedural one, with the paper's options where it gives none."""
        grid = read_grid(config) if config is not None else smoke_grid(data)
        if seeds is not None:
            grid = replace(grid, seeds=seeds)
        grid = with_absolute_paths(grid)  # jobs name them, and go to processes in other folders
        return cls(asked, replace(grid, pretrain=PRETRAIN | grid.pretrain, finetune=FINETUNE | grid.finetune))

    def make_data(self, folder: Path, seed: int, reporter: Reporter) -> None:
        """A store and a labelled folder."""
        make_data(folder, seed, reporter)

    def check(self, seed: int) -> None:
        """Raises InputError for data that are not there."""
        for task in self.grid.tasks:
            for path, what in ((task.data, "data"), (task.groups, "groups")):
                if path is not None and not path.exists():
                    whose = f"the {what} of task {task.name}"
                    raise InputError(f"{path}: does not exist, {whose}. Correct its path in [tasks]")
        for path in self.grid.stores.values() if self.asked != ("0",) else ():
            SliceStore(path)  # reads the index

    def jobs(self) -> list[Job]:
        """Selections, pre-trainings, fine-tunings and analyses."""
        return list(jobs(self.asked, self.grid))

    def options(self) -> dict[str, Any]:
        """Of pre-trainings and fine-tunings."""
        return {"pretrain": self.grid.pretrain, "finetune": self.grid.finetune}

    def worker(self, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False) -> Worker:
        """Reduces, pre-trains, fine-tunes and analyses."""
        return Worker(self.grid, output, device, seed, reporter, overwrite)

    def planned(self, job: Job, worker: JobWorker) -> Planned | None:
        """A pre-training, of as many slices as its selection keeps."""
        assert isinstance(worker, Worker)
        return planned(job, worker)

    def networks(self, job: Job) -> Networks | None:
        """Of the backbone that was pre-trained, or of the one that begins untrained."""
        if not isinstance(job, Finetune):
            return None
        options = options_of(self.grid.pretrain, job.pretrain.method)[0] if job.pretrain else self.grid.finetune
        runs = job.task.folds or self.grid.finetune["runs"]
        return Networks(options.get("backbone"), runs, kept(job, self.grid))

    def plan_lines(self) -> list[str]:
        """What so many seeds can show."""
        return claim.power_lines(self.grid) if CLAIM in self.asked else []

    def written(self, output: Path, seed: int, failures: Failures) -> tuple[dict[str, Any], list[str]]:
        """Write the tables, and what must be known of them, as a page, as text and as JSON."""
        grid = self.grid
        tables = {name: table(name, grid, output) for name in self.asked if name != CLAIM}
        told = claim.told(grid, output, seed) if CLAIM in self.asked else None
        found = found_analyses(grid, output) if "D" in self.asked else []
        notes = caveats(self.asked, grid, self.options() | {"seed": seed})
        text = markdown(tables, grid, found, notes, claim.markdown(told.sections) if told else ())
        values: dict[str, Any] = {"format": "lim-gpu-evaluation", "version": 1, "tables": tables, "caveats": notes}
        values |= {"failures": failures} | ({"claim": told.values} if told else {})

        def draw(values: dict[str, Any]) -> None:
            write_evaluation(output, tables, grid, found, values, told)

        return write_results(output, self.page, values, text, draw)
