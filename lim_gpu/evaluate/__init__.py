"""The papers' evaluations: jobs that are planned, shared out, done once and told as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lim_gpu.cluster import Cluster
from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.evaluate.clock import Clock
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.evaluate.paper import Paper
from lim_gpu.evaluate.queue import share_of
from lim_gpu.evaluate.tariq2024 import Tariq2024
from lim_gpu.evaluate.wolf2024 import Wolf2024
from lim_gpu.files import locked, read_json, write_json
from lim_gpu.outputs import check_folder, made_otherwise
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.shard import Shard

PAPERS: tuple[type[Paper], ...] = (Wolf2024, Tariq2024)


def evaluate(
    evaluations: Sequence[str],
    output: Path,
    *,
    config: Path | None = None,
    smoke: bool = False,
    plan: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    ray: str | None = None,
    cpus_per_task: int | None = None,
    shard: tuple[int, int] | str | None = None,
    seeds: int | None = None,
    minutes: float | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Run evaluations "0", "A".."F", "claim", or "T2".."T6", into the folder `output`: a folder a job, resumable.

    config  a TOML file with stores, tasks and options (see `lim_gpu.evaluate.grid`, of T2 to T6 `study`); or smoke:
            procedural data, minutes
    dry_run     only list the jobs, with slices and steps; plan: with hours from a measured step, and disk, too
    overwrite   do again what stands and was made otherwise
    ray     jobs whose needs stand run at once, in processes of a Ray cluster with a GPU each: "auto", "local" or
            "HOST:PORT"; cpus_per_task: of each process. All hosts see the data and `output` at the same place
    shard   (I, N) or "I/N": only every N-th pre-training, with what it needs and its fine-tunings, as others do the
            rest at the same time; the same call without it then does the analyses and writes the tables

    seeds   pre-trainings of every kind, in place of the configuration's; minutes: begin no seed that would end later,
            by the longest so far. What is told is then of those that are done, of the claim of those that are whole

    With several GPUs jobs whose needs stand run at once, a GPU each (`device` "auto" or "cuda").

    A job that fails is reported, what needs it is left out, and the rest goes on. Raises UsageError for a contradictory
    call, and for an `output` of other options without `overwrite`; InputError for a configuration that cannot be read
    or names data that are not there.
    """
    reporter = reporter or Reporter(quiet=True)
    kind, asked = _asked(evaluations)
    if smoke == (config is not None):
        raise UsageError("nothing says on which data. Give --config grid.toml or --preset smoke")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds} is no number of pre-trainings. Give 1 or more")
    if minutes is not None and ray:
        raise UsageError("`minutes` ends jobs that go one after another, and `ray` does them at once. Give one of them")
    check_folder(output)
    cluster = Cluster.at(ray, cpus_per_task)
    part = Shard.asked(shard, ray=ray, plan=plan or dry_run)
    if cluster is None:
        check_gpu(device)
    with TemporaryDirectory() as temporary:
        data = Path(temporary) if plan and not (output / "data").exists() else output / "data"
        paper = kind.of(asked, config, data, seeds)
        todo, options = paper.jobs(), {"seed": seed} | paper.options()
        _check_options(output / paper.options_file, options, overwrite)
        if config is not None:
            paper.check(seed)
        elif not dry_run:
            with locked(data, patient=True) if part else nullcontext():
                paper.make_data(data, seed, reporter)
        worker = paper.worker(output, device, seed, Reporter(quiet=True), overwrite)
        if plan or dry_run:
            return _estimated(todo, paper, worker, timed=plan)
    with locked(output, shared=part is not None):
        write_json(output / paper.options_file, options)
        if part is not None:
            return _share(share_of(todo, part), part, worker, reporter, Clock(minutes))
        if cluster is None:
            failures = _do(todo, worker, reporter, Clock(minutes))
        else:
            failures = _do_on_hosts(todo, worker, reporter, cluster)
        values, lines = paper.written(output, seed, failures)
    return Outcome(values, lines, bool(failures))


def _asked(evaluations: Sequence[str]) -> tuple[type[Paper], tuple[str, ...]]:
    """The paper whose evaluations are asked for, and these in its order."""
    known = [name for kind in PAPERS for name in kind.names]
    if unknown := sorted(set(evaluations) - set(known)):
        raise UsageError(f"evaluation {unknown[0]!r} is unknown. Give {', '.join(known)}")
    if not evaluations:
        raise UsageError(f"no evaluation is asked for. Give {', '.join(known)}")
    first, *others = [kind for kind in PAPERS if set(kind.names) & set(evaluations)]
    asked = [tuple(name for name in kind.names if name in evaluations) for kind in (first, *others)]
    if others:
        both = f"{asked[0][0]} and {asked[1][0]} are of two papers"
        raise UsageError(f"{both}, each with a configuration of its own. Give them in two calls")
    return first, asked[0]


def _estimated(todo: Sequence[Job], paper: Paper, worker: JobWorker, *, timed: bool) -> Outcome:
    from lim_gpu.evaluate.estimate import estimate

    values, lines = estimate(todo, worker, partial(paper.planned, worker=worker), paper.networks, timed=timed)
    return Outcome(values, lines + paper.plan_lines(), bool(values["refused"]))


def _share(todo: Sequence[Job], shard: Shard, worker: JobWorker, reporter: Reporter, clock: Clock) -> Outcome:
    """Do the jobs of a share."""
    failures = _do(todo, worker, reporter, clock)
    done = counted(len(todo) - len(failures), "job")
    line = f"shard {shard}: {done} -> {worker.output}. When all shards have ended, the same command without --shard"
    values = {"shard": str(shard), "jobs": [job.folder for job in todo], "failures": failures}
    return Outcome(values, [f"{line} writes the tables"], bool(failures))


def _check_options(path: Path, options: dict[str, Any], overwrite: bool) -> None:
    """Raises UsageError where the jobs beside `path` were done with others."""
    if path.exists() and not overwrite and read_json(path) != json.loads(json.dumps(options)):
        raise made_otherwise(path)


def _do(todo: Sequence[Job], worker: JobWorker, reporter: Reporter, clock: Clock) -> list[tuple[str, str]]:
    """Do the jobs in order, or on several GPUs at once; return those that could not be done, with the cause."""
    from lim_gpu.evaluate.devices import do_on_gpus, gpus_of

    if len(gpus := gpus_of(worker.device)) > 1:
        if clock.limited:
            raise UsageError("`minutes` ends jobs that go one after another: on one device. Give --device cuda:0")
        failed = do_on_gpus(todo, worker.at("cuda"), gpus, reporter)
        return [(job.folder, failed[job]) for job in todo if job in failed]
    failed = {}
    with reporter.track("evaluate", len(todo), "jobs") as advance:
        for number, job in enumerate(todo, 1):
            if clock.is_up(job):
                reporter.note(f"{number - 1} of {len(todo)} jobs: another seed would take longer than --minutes allows")
                break
            reporter.note(f"{number} of {len(todo)}: {job.folder}")
            missing = [needed for needed in job.needs if needed in failed]
            try:
                if missing:
                    raise LimGpuError(f"{job.folder}: needs {missing[0].folder}, which failed. Look at its error")
                worker.do(job)
            except LimGpuError as error:
                failed[job] = str(error)
                reporter.error(error)
            advance(1)
    return [(job.folder, cause) for job, cause in failed.items()]


def _do_on_hosts(todo: Sequence[Job], worker: JobWorker, reporter: Reporter, cluster: Cluster) -> list[tuple[str, str]]:
    """The same on the hosts of a cluster, in the order of what they need."""
    from lim_gpu.evaluate.hosts import do_on_hosts

    failed = do_on_hosts(todo, worker.at, worker.output, worker.device, cluster, reporter)
    return [(job.folder, failed[job]) for job in todo if job in failed]
