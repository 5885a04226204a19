"""What tests have the processes of a cluster do: importable there, and told by files what happened before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu import cli
from lim_gpu.errors import InputError
from lim_gpu.evaluate.job import Job
from lim_gpu.reduction import hosts
from lim_gpu.workers import TaskResult, Ticked
from reductions import RESULTS

BEGINS = 3  # the number that goes wrong


def squares(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    """One of each number. Every attempt leaves a file in `folder`."""
    for place, number in enumerate(batch):
        attempt = sum(1 for _ in folder.glob(f"{number}.*"))
        (folder / f"{number}.{attempt}.{os.getpid()}").touch()
        yield TaskResult(place, number**2)


def _attempts(folder: Path) -> int:
    return len(list(folder.glob(f"{BEGINS}.*")))


def dying_on_its_way(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult | Ticked]:
    """Numbers that tell of each step; the first time one dies after as many as it counts."""
    for result in squares(folder, batch):
        number = batch[result.task]
        again = _attempts(folder) > 1
        for step in range(number):
            yield Ticked(result.task, step + 1)
        if number == BEGINS and not again:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def dying_once(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS and _attempts(folder) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def poisoned(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def losing_the_host(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    """The first time, Ray's own process of the host ends, too, which is the parent of this one; then this one alone."""
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS and _attempts(folder) == 1:
            os.kill(os.getppid(), signal.SIGKILL)
        if batch[result.task] == BEGINS and _attempts(folder) <= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def losing_ray_alone(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    """The first time, Ray's own process of the host ends, and this one stays at its number."""
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS and _attempts(folder) == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        yield result


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's and CuPy's."""


def out_of_memory(times: int, folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS and _attempts(folder) <= times:
            raise OutOfMemoryError("CUDA out of memory")
        yield result


def raising(folder: Path, batch: Sequence[int]) -> Iterator[TaskResult]:
    for result in squares(folder, batch):
        if batch[result.task] == BEGINS:
            raise ValueError("two\nlines")
        yield result


reduce_batch = hosts.reduce_batch


def reduce_or_die(key: str, once: Path | None, *arguments: Any) -> Iterator[TaskResult]:
    """`reduce_batch`, whose process is killed at volume `key`; only if `once` is not there yet."""
    return _reduce_or_kill(key, once, lambda: [os.getpid()], *arguments)


def reduce_or_lose_the_host(key: str, once: Path, *arguments: Any) -> Iterator[TaskResult]:
    """The same, and Ray's own process of the host before it, which is the parent of this one."""
    return _reduce_or_kill(key, once, lambda: [os.getppid(), os.getpid()], *arguments)


def _reduce_or_kill(
    key: str, once: Path | None, victims: Callable[[], list[int]], *arguments: Any
) -> Iterator[TaskResult]:
    *how, units = arguments
    for place, unit in enumerate(units):
        if unit.name == key and not (once and once.exists()):
            if once:
                once.touch()
            for victim in victims():
                os.kill(victim, signal.SIGKILL)
        [result] = reduce_batch(*how, [unit])
        yield replace(result, task=place)


def reduce_then_wait(begun: Path, *arguments: Any) -> Iterator[TaskResult]:
    """`reduce_batch`, of which the second unit never comes; `begun` then names the process."""
    for result in reduce_batch(*arguments):
        if begun.exists() or list(begun.parent.glob(f"*.parts/{RESULTS}")):
            begun.write_text(str(os.getpid()))
            time.sleep(600)
        yield result


class Noting:
    """In place of evaluate's worker: a file a job, and that of what it needs has to be there. Some jobs fail."""

    def __init__(self, folder: Path, failing: tuple[str, ...]) -> None:
        self.folder = folder
        self.failing = failing

    def do(self, job: Job) -> None:
        if job.folder in self.failing:
            raise InputError(f"{job.folder}: is bad")
        missing = [needed.folder for needed in job.needs if not self.file(needed).exists()]
        self.file(job).write_text(" ".join(missing))

    def file(self, job: Job) -> Path:
        return self.folder / job.folder.replace("/", "+")


def gone(process: int) -> bool:
    """Whether it ends."""
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":  # lim-gpu ARGUMENTS, whose second unit never comes
    import clustered

    hosts.reduce_batch = partial(clustered.reduce_then_wait, Path(os.environ["BEGUN"]))
    cli.main()
