"""The paper's evaluations as grids of reduce, pretrain and finetune jobs (Wolf et al. 2024, section 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lim_gpu.cluster import Cluster
from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.evaluate import claim
from lim_gpu.evaluate.clock import Clock
from lim_gpu.evaluate.configuration import read_grid
from lim_gpu.evaluate.grid import CLAIM, EVALUATIONS, Grid, Job, jobs, needs
from lim_gpu.evaluate.hosts import with_absolute_paths
from lim_gpu.evaluate.page import write_evaluation
from lim_gpu.evaluate.queue import share_of
from lim_gpu.evaluate.smoke import make_data, smoke_grid
from lim_gpu.evaluate.table import caveats, found_analyses, markdown, table
from lim_gpu.evaluate.work import Worker
from lim_gpu.files import locked, made_otherwise, read_json, write_json, write_text
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.shard import Shard
from lim_gpu.store.slices import SliceStore

PRETRAIN = {"backbone": "resnet50", "preset": "wolf2024-paper"}  # epochs and batch are each method's own
FINETUNE = {"runs": 5, "epochs": 70}
PRETEXT = "T2"  # of the other paper
OPTIONS = "options.json"  # of all jobs below the output


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
    """Run evaluations "0", "A".."F", "claim", or "T2" alone, into the folder `output`: a folder a job, resumable.

    config  a TOML file with stores, tasks and options (see `lim_gpu.evaluate.grid`); or smoke: procedural data, minutes
    dry_run     only list the jobs, with slices and steps; plan: with hours from a measured step, and disk, too
    overwrite   do again what stands and was made otherwise
    ray     jobs whose needs stand run at once, in processes of a Ray cluster with a GPU each: "auto", "local" or
            "HOST:PORT"; cpus_per_task: of each process. All hosts see the data and `output` at the same place
    shard   (I, N) or "I/N": only every N-th pre-training, with what it needs and its fine-tunings, as others do the
            rest at the same time; the same call without it then does the analyses and writes the tables

    seeds   pre-trainings of every kind, in place of the configuration's; minutes: of the claim, begin no seed that
            would end later, by the longest so far. The verdict is then of those that are whole

    With several GPUs jobs whose needs stand run at once, a GPU each (`device` "auto" or "cuda").

    A job that fails is reported, what needs it is left out, and the rest goes on. Raises UsageError for a contradictory
    call, and for an `output` of other options without `overwrite`; InputError for a configuration that cannot be read
    or names data that are not there.
    """
    reporter = reporter or Reporter(quiet=True)
    if PRETEXT in evaluations:
        from lim_gpu.evaluate.pretext import evaluate_pretext

        if len(evaluations) > 1 or ray or shard or overwrite:
            raise UsageError(f"evaluation {PRETEXT} has stores of its own. Give it alone, without --ray and the like")
        listed = plan or dry_run
        return evaluate_pretext(
            output, config=config, smoke=smoke, plan=listed, device=device, seed=seed, reporter=reporter
        )
    asked = tuple(name for name in EVALUATIONS if name in evaluations)
    if unknown := sorted(set(evaluations) - set(EVALUATIONS)):
        raise UsageError(f"evaluation {unknown[0]!r} is unknown. Give {', '.join((*EVALUATIONS, PRETEXT))}")
    if smoke == (config is not None):
        raise UsageError("nothing says on which data. Give --config grid.toml or --preset smoke")
    cluster = Cluster.at(ray, cpus_per_task)
    part = Shard.asked(shard, ray=ray, plan=plan or dry_run)
    if cluster is None:
        check_gpu(device)
    with TemporaryDirectory() as temporary:
        data = Path(temporary) if plan and not (output / "data").exists() else output / "data"
        grid = _grid(config, data, seeds)
        todo = jobs(asked, grid)
        _check_options(output, _options(grid, seed), overwrite)
        if config is not None:
            _check_paths(grid, stores=asked != ("0",))
        elif not dry_run:
            with locked(data, patient=True) if part else nullcontext():
                make_data(data, seed, reporter)
        if plan or dry_run:
            from lim_gpu.evaluate.estimate import estimate

            values, lines = estimate(todo, grid, output, device, seed, timed=plan)
            if CLAIM in asked:
                lines += claim.power_lines(grid)
            return Outcome(values, lines, bool(values["refused"]))
    with locked(output, shared=part is not None):
        write_json(output / OPTIONS, _options(grid, seed))
        worker = Worker(grid, output, device, seed, Reporter(quiet=True), overwrite)
        if part is not None:
            return _share(share_of(todo, part), part, worker, reporter)
        do = partial(_do, clock=Clock(minutes)) if cluster is None else partial(_do_on_hosts, cluster=cluster)
        failures = do(todo, worker, reporter)
    return _written(asked, grid, output, seed, failures)


def _share(todo: Sequence[Job], shard: Shard, worker: Worker, reporter: Reporter) -> Outcome:
    """Do the jobs of a share."""
    failures = _do(todo, worker, reporter)
    done = counted(len(todo) - len(failures), "job")
    line = f"shard {shard}: {done} -> {worker.output}. When all shards have ended, the same command without --shard"
    values = {"shard": str(shard), "jobs": [job.folder for job in todo], "failures": failures}
    return Outcome(values, [f"{line} writes the tables"], bool(failures))


def _grid(config: Path | None, data: Path, seeds: int | None) -> Grid:
    """That of a file; without one that of procedural data in the folder `data`."""
    grid = read_grid(config) if config is not None else smoke_grid(data)
    if seeds is not None:
        if seeds < 1:
            raise UsageError(f"--seeds {seeds} is no number of pre-trainings. Give 1 or more")
        grid = replace(grid, seeds=seeds)
    return replace(grid, pretrain=PRETRAIN | grid.pretrain, finetune=FINETUNE | grid.finetune)


def _options(grid: Grid, seed: int) -> dict[str, Any]:
    """What every job of a folder has in common; stores, tasks and evaluations may come in later."""
    return {"seed": seed, "pretrain": grid.pretrain, "finetune": grid.finetune}


def _check_options(output: Path, options: dict[str, Any], overwrite: bool) -> None:
    """Raises UsageError where the jobs of `output` were done with others."""
    path = output / OPTIONS
    if path.exists() and not overwrite and read_json(path) != json.loads(json.dumps(options)):
        raise made_otherwise(path)


def _written(asked: Sequence[str], grid: Grid, output: Path, seed: int, failures: list[tuple[str, str]]) -> Outcome:
    """Write the tables, and what must be known of them, as a page, as text and as JSON."""
    tables = {name: table(name, grid, output) for name in asked if name != CLAIM}
    told = claim.told(grid, output, seed) if CLAIM in asked else None
    found = found_analyses(grid, output) if "D" in asked else []
    notes = caveats(grid, {"pretrain": grid.pretrain, "finetune": grid.finetune, "seed": seed})
    text = markdown(tables, grid, found, notes, claim.markdown(told.sections) if told else ())
    values = {"format": "lim-gpu-evaluation", "version": 1, "tables": tables, "caveats": notes, "failures": failures}
    values |= {"claim": told.values} if told else {}
    values |= {"versions": {name: version(name) for name in ("lim-gpu", "torch", "torchvision")}}
    where = f"{output / 'evaluation.md'}, evaluation.html, evaluation.json"
    if unchanged := _stands(output, values):
        lines = [f"unchanged: {where}", *text.splitlines()]
    else:
        write_evaluation(output, tables, grid, found, values, told)
        write_text(output / "evaluation.md", text)
        write_json(output / "evaluation.json", values)  # last: it says that the others are whole
        lines = [*text.splitlines(), f"-> {where}"]
    return Outcome(values | {"unchanged": unchanged}, lines, bool(failures))


def _stands(output: Path, values: dict[str, Any]) -> bool:
    """Whether the tables of `values` stand there already."""
    whole = all((output / f"evaluation.{kind}").exists() for kind in ("md", "html", "json"))
    return whole and read_json(output / "evaluation.json") == json.loads(json.dumps(values))


def _check_paths(grid: Grid, stores: bool) -> None:
    """Raises InputError for data that are not there, before hours are spent on other jobs."""
    for task in grid.tasks:
        if not task.data.exists():
            raise InputError(f"{task.data}: does not exist, the data of task {task.name}. Correct its path in [tasks]")
    for path in grid.stores.values() if stores else ():
        SliceStore(path)  # reads the index


def _do(todo: Sequence[Job], worker: Worker, reporter: Reporter, clock: Clock | None = None) -> list[tuple[str, str]]:
    """Do the jobs in order, or on several GPUs at once; return those that could not be done, with the cause."""
    from lim_gpu.evaluate.devices import do_on_gpus, gpus_of

    if len(gpus := gpus_of(worker.device)) > 1:
        failed = do_on_gpus(todo, _anywhere(worker, "cuda"), gpus, reporter)
        return [(job.folder, failed[job]) for job in todo if job in failed]
    failed = {}
    clock = clock or Clock(None)
    with reporter.track("evaluate", len(todo), "jobs") as advance:
        for number, job in enumerate(todo, 1):
            if clock.is_up(job):
                reporter.note(f"{number - 1} of {len(todo)} jobs: another seed would take longer than --minutes allows")
                break
            reporter.note(f"{number} of {len(todo)}: {job.folder}")
            missing = [needed for needed in needs(job) if needed in failed]
            try:
                if missing:
                    raise LimGpuError(f"{job.folder}: needs {missing[0].folder}, which failed. Look at its error")
                worker.do(job)
            except LimGpuError as error:
                failed[job] = str(error)
                reporter.error(error)
            advance(1)
    return [(job.folder, cause) for job, cause in failed.items()]


def _do_on_hosts(todo: Sequence[Job], worker: Worker, reporter: Reporter, cluster: Cluster) -> list[tuple[str, str]]:
    """The same on the hosts of a cluster, in the order of what they need."""
    from lim_gpu.evaluate.hosts import do_on_hosts

    make = partial(_anywhere, worker)
    failed = do_on_hosts(todo, make, worker.output, worker.device, cluster, reporter)
    return [(job.folder, failed[job]) for job in todo if job in failed]


def _anywhere(worker: Worker, place: str) -> Worker:
    """The same for another process, in whatever folder, on its device `place`."""
    grid, output = with_absolute_paths(worker.grid), worker.output.absolute()
    return Worker(grid, output, place, worker.seed, worker.reporter, worker.overwrite)
