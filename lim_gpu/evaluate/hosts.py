"""The jobs of the evaluations on hosts: those whose needs stand at once, each in a process with a GPU of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lim_gpu.cluster import Cluster, connect, gpus_for, run_batches
from lim_gpu.errors import LimGpuError
from lim_gpu.evaluate.job import Job
from lim_gpu.evaluate.queue import Queue
from lim_gpu.progress import Reporter, hosts_in_words
from lim_gpu.sharing import check_seen, sign_in
from lim_gpu.workers import TaskResult


class Doing(Protocol):
    """`lim_gpu.evaluate.work.Worker`, or what takes its place."""

    def do(self, job: Job) -> None:
        """Run a job. Raises LimGpuError for what goes wrong in it."""


def do_on_hosts(
    todo: Sequence[Job],
    make: Callable[[str], Doing],
    output: Path,
    device: str,
    cluster: Cluster,
    reporter: Reporter,
) -> dict[Job, str]:
    """Do the jobs, those whose needs stand at once; returns those that could not be done, with the cause.

    make: gives what does them on the device of a process, "cuda" or "cpu", with absolute paths. output: what every host
    has to see at the same place. Raises as `cluster.run_batches`.
    """
    queue, worked = Queue(todo), Counter[str]()
    with (
        connect(cluster.address) as hosts,
        reporter.track("evaluate", len(todo), "jobs") as advance,
        sign_in(output.absolute()) as sign,
    ):
        reporter.note(f"ray: {hosts}")
        gpus = gpus_for(device)
        batched = partial(do_batch, make("cuda" if gpus else "cpu"), sign)
        how: dict[str, Any] = {"cpus": cluster.cpus, "gpus": gpus, "most": 1, "worked": worked}
        with closing(run_batches(batched, queue.ready, **how)) as outcomes:
            for outcome in outcomes:
                job = queue.ready[outcome.task]
                reporter.note(f"{'done' if outcome.error is None else 'failed'}: {job.folder}")
                new = queue.finish(job, outcome.error)
                for error in new:
                    reporter.error(error)
                advance(max(1, len(new)))
        reporter.note(f"hosts: {hosts_in_words(worked)}")
    return queue.failed


def do_batch(worker: Doing, seen: Path, jobs: Sequence[Job]) -> Iterator[TaskResult]:
    """In a process of a host: some jobs, one after another."""
    check_seen([seen])
    for place, job in enumerate(jobs):
        try:
            worker.do(job)
        except LimGpuError as error:
            yield TaskResult(place, error=str(error))
        else:
            yield TaskResult(place)
