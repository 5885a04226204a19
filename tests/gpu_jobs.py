"""What takes the place of evaluate's worker in processes that are given a GPU."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.evaluate.grid import Grid, Task, jobs
from lim_gpu.evaluate.job import Job


@dataclass
class Noting:
    """A file a job: the GPU that it sees, and what it needs and did not find. Some jobs fail, die or raise."""

    folder: Path
    failing: tuple[str, ...] = ()
    dying: tuple[str, ...] = ()
    raising: tuple[str, ...] = ()

    def do(self, job: Job) -> None:
        if job.folder in self.failing:
            raise InputError(f"{job.folder}: is bad")
        if job.folder in self.dying:
            os._exit(9)
        if job.folder in self.raising:
            raise ValueError("no")
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        missing = [needed.folder for needed in job.needs if not self.file(needed).exists()]
        with open(self.folder / f"gpu-{gpu}", "x"):  # one job at a time
            self.file(job).write_text(" ".join([gpu, *missing]))
        (self.folder / f"gpu-{gpu}").unlink()

    def file(self, job: Job) -> Path:
        return self.folder / job.folder.replace("/", "+")


@dataclass
class Waiting:
    """Its first job never ends; `begun` names the process."""

    folder: Path

    def do(self, job: Job) -> None:
        (self.folder / "begun").write_text(str(os.getpid()))
        time.sleep(600)


if __name__ == "__main__":
    from gpu_jobs import Waiting as Importable
    from lim_gpu.evaluate.devices import do_on_gpus
    from lim_gpu.progress import Reporter

    place = Path(sys.argv[1])
    todo = jobs(("0",), Grid({}, (Task("COVID", place),)))
    do_on_gpus(todo, Importable(place), ["0", "1"], Reporter(quiet=True))
