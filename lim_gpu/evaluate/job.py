"""A job of an evaluation, which has a folder of its own, and what does jobs one after another."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.files import write_json
from lim_gpu.progress import Reporter


class Job(ABC):
    """One thing to do. Jobs that do the same are equal."""

    @property
    @abstractmethod
    def folder(self) -> str:
        """Where its result stands, below the output."""

    @property
    def needs(self) -> Sequence[Job]:
        """The jobs whose results it reads, each behind those that it needs itself."""
        return ()

    @property
    def root(self) -> Job | None:
        """The training with which it is shared out; None for what any share may do, or none."""
        return None


class JobWorker(ABC):
    """Runs jobs below the folder `output`; with `overwrite` those again that stand and were made otherwise."""

    def __init__(self, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False) -> None:
        self.output = output
        self.device = device
        self.seed = seed
        self.reporter = reporter
        self.overwrite = overwrite

    @property
    @abstractmethod
    def stores(self) -> dict[str, Path]:
        """Those that are pre-trained on, and others, by name."""

    @abstractmethod
    def at(self, place: str) -> JobWorker:
        """The same for another process, in whatever folder, on its device `place`."""

    @abstractmethod
    def result(self, job: Job) -> dict[str, Any]:
        """Do a job, or find that it stands ("unchanged"), and say what it cost. Raises LimGpuError."""

    def has_stores(self) -> bool:
        """Whether the stores are there; procedural ones are made when the jobs are done."""
        return all((path / "store.json").exists() for path in self.stores.values())

    def done(self, job: Job) -> bool:
        """Whether the job has left its job.json."""
        return self.record(job).exists()

    def record(self, job: Job) -> Path:
        """Its job.json."""
        return self.output / job.folder / "job.json"

    def replaces(self, job: Job) -> bool:
        """Whether what stands of the job may go: what was left unfinished always."""
        return self.overwrite or not self.done(job)

    def do(self, job: Job) -> None:
        """Run a job, or find that it stands. Raises LimGpuError for what goes wrong in it."""
        start = time.perf_counter()
        values = self.result(job)
        record = self.record(job)
        if values.get("unchanged") and record.exists():
            return
        write_json(record, {"seconds": round(time.perf_counter() - start, 3)} | values)
