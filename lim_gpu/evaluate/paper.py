"""What the evaluations of a paper have to give, so that they are planned, shared out, done and told like others."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from lim_gpu.evaluate.disk import Networks
from lim_gpu.evaluate.estimate import Planned
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.files import read_json, write_json, write_text
from lim_gpu.progress import Reporter
from lim_gpu.report.page import made_with

Failures = Sequence[tuple[str, str]]  # the folder of a job and the cause
VERSIONS = ("lim-gpu", "torch", "torchvision")  # of what the numbers depend on


class Paper(ABC):
    """Those evaluations of a paper that are asked for, with their data and options."""

    names: ClassVar[tuple[str, ...]]  # of all its evaluations, in the order of the paper
    page: ClassVar[str]  # the name of what is written, below the output, without its ending
    options_file: ClassVar[str]  # below the output

    @classmethod
    @abstractmethod
    def of(cls, asked: tuple[str, ...], config: Path | None, data: Path, seeds: int | None) -> Paper:
        """By a configuration file; without one of procedural data in the folder `data`.

        Raises InputError or UsageError for a file that cannot be read, naming it.
        """

    @abstractmethod
    def make_data(self, folder: Path, seed: int, reporter: Reporter) -> None:
        """Make the procedural data below `folder`, once."""

    @abstractmethod
    def check(self, seed: int) -> None:
        """Raises InputError for data that are not there or cannot be used, before hours are spent on other jobs."""

    @abstractmethod
    def jobs(self) -> list[Job]:
        """Everything to do, each once, in an order in which all that a job needs stands before it."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What every job of an output has in common; data and evaluations may come in later."""

    @abstractmethod
    def worker(self, output: Path, device: str, seed: int, reporter: Reporter, overwrite: bool = False) -> JobWorker:
        """What does the jobs."""

    @abstractmethod
    def planned(self, job: Job, worker: JobWorker) -> Planned | None:
        """The training that a job is, if it is one and its data are there."""

    @abstractmethod
    def networks(self, job: Job) -> Networks | None:
        """What a job keeps on the disk if it is a fine-tuning."""

    @abstractmethod
    def written(self, output: Path, seed: int, failures: Failures) -> tuple[dict[str, Any], list[str]]:
        """Write what was found below `output`; the values, with "unchanged", and lines for people."""

    def plan_lines(self) -> list[str]:
        """What else a plan says."""
        return []


def write_results(
    output: Path, page: str, values: dict[str, Any], text: str, draw: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], list[str]]:
    """Write PAGE.html by `draw`, `text` as PAGE.md and `values` as PAGE.json, unless they stand there already.

    Returns the values, with "unchanged", and lines for people.
    """
    made = {"versions": {name: version(name) for name in VERSIONS}, "page": made_with(f"{page}.html")}
    values = json.loads(json.dumps(values | made))
    where = f"{output / page}.md, {page}.html, {page}.json"
    whole = all((output / f"{page}.{kind}").exists() for kind in ("md", "html", "json"))
    if whole and read_json(output / f"{page}.json") == values:
        return values | {"unchanged": True}, [f"unchanged: {where}", *text.splitlines()]
    draw(values)
    write_text(output / f"{page}.md", text)
    write_json(output / f"{page}.json", values)  # last: it says that the others are whole
    return values | {"unchanged": False}, [*text.splitlines(), f"-> {where}"]
