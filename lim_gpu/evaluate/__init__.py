"""The paper's evaluations as grids of reduce, pretrain and finetune jobs (Wolf et al. 2024, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from lim_gpu.cluster import Cluster
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.evaluate.grid import EVALUATIONS, Grid, Job, jobs, needs, read_grid
from lim_gpu.evaluate.page import write_evaluation
from lim_gpu.evaluate.table import caveats, found_analyses, markdown, table
from lim_gpu.files import locked, write_json, write_text
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.store.slices import SliceStore

PRETRAIN = {"backbone": "resnet50", "preset": "wolf2024-paper"}  # epochs and batch are each method's own
FINETUNE = {"runs": 5, "epochs": 70}


def evaluate(
    evaluations: Sequence[str],
    output: Path,
    *,
    config: Path | None = None,
    smoke: bool = False,
    plan: bool = False,
    device: str = "auto",
    seed: int = 0,
    ray: str | None = None,
    cpus_per_task: int | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Run evaluations "0", "A".."E" into the folder `output`: one folder a job, resumable, nothing done twice.

    config  a TOML file with stores, tasks and options (see `lim_gpu.evaluate.grid`); or smoke: procedural data, minutes
    plan    only list the jobs, with hours estimated from a measured training step, and disk
    ray     jobs whose needs stand run at once, in processes of a Ray cluster with a GPU each: "auto", "local" or
            "HOST:PORT"; cpus_per_task: of each process. All hosts see the data and `output` at the same place

    A job that fails is reported, what needs it is left out, and the rest goes on. Raises UsageError for a contradictory
    call, InputError for a configuration that cannot be read or names data that are not there.
    """
    reporter = reporter or Reporter(quiet=True)
    asked = tuple(name for name in EVALUATIONS if name in evaluations)
    if unknown := sorted(set(evaluations) - set(EVALUATIONS)):
        raise UsageError(f"evaluation {unknown[0]!r} is unknown. Give {', '.join(EVALUATIONS)}")
    if smoke == (config is not None):
        raise UsageError("give --config grid.toml or --preset smoke")
    with TemporaryDirectory() as temporary:
        data = Path(temporary) if plan and not (output / "data").exists() else output / "data"
        grid = _grid(config, data, seed, reporter)
        todo = jobs(asked, grid)
        _check_paths(grid, stores=asked != ("0",))
        if plan:
            from lim_gpu.evaluate.estimate import estimate

            values, lines = estimate(todo, grid, output, device, seed)
            return Outcome(values, lines, bool(values["refused"]))
    with locked(output):
        cluster = Cluster.at(ray, cpus_per_task)
        if cluster is None:
            failures = _do(todo, grid, output, device, seed, reporter)
        else:
            failures = _do_on_hosts(todo, grid, output, device, seed, reporter, cluster)
    return _written(asked, grid, output, seed, failures)


def _grid(config: Path | None, data: Path, seed: int, reporter: Reporter) -> Grid:
    """That of a file; without one that of procedural data, which are made in the folder `data`."""
    if config is not None:
        grid = read_grid(config)
    else:
        from lim_gpu.evaluate.smoke import smoke_grid

        grid = smoke_grid(data, seed, reporter)
    return replace(grid, pretrain=PRETRAIN | grid.pretrain, finetune=FINETUNE | grid.finetune)


def _written(asked: Sequence[str], grid: Grid, output: Path, seed: int, failures: list[tuple[str, str]]) -> Outcome:
    """Write the tables, and what must be known of them, as a page, as text and as JSON."""
    tables = {name: table(name, grid, output) for name in asked}
    found = found_analyses(grid, output) if "D" in asked else []
    notes = caveats(grid, {"pretrain": grid.pretrain, "finetune": grid.finetune, "seed": seed})
    text = markdown(tables, grid, found, notes)
    values = {"format": "lim-gpu-evaluation", "version": 1, "tables": tables, "caveats": notes, "failures": failures}
    values |= {"versions": {name: version(name) for name in ("lim-gpu", "torch", "torchvision")}}
    write_evaluation(output, tables, grid, found, values)
    write_json(output / "evaluation.json", values)
    write_text(output / "evaluation.md", text)
    where = f"-> {output / 'evaluation.md'}, evaluation.html, evaluation.json"
    return Outcome(values, [*text.splitlines(), where], bool(failures))


def _check_paths(grid: Grid, stores: bool) -> None:
    """Raises InputError for data that are not there, before hours are spent on other jobs."""
    for task in grid.tasks:
        if not task.data.exists():
            raise InputError(f"{task.data}: does not exist, the data of task {task.name}")
    for path in grid.stores.values() if stores else ():
        SliceStore(path)  # reads the index


def _do(
    todo: Sequence[Job], grid: Grid, output: Path, device: str, seed: int, reporter: Reporter
) -> list[tuple[str, str]]:
    """Do the jobs in order; return those that could not be done, with the cause."""
    from lim_gpu.evaluate.work import Worker

    quiet = Reporter(quiet=True)
    worker = Worker(grid, output, device, seed, quiet)
    failed: dict[Job, str] = {}
    with reporter.track("evaluate", len(todo), "jobs") as advance:
        for number, job in enumerate(todo, 1):
            reporter.note(f"{number} of {len(todo)}: {job.folder}")
            missing = [needed for needed in needs(job) if needed in failed]
            try:
                if missing:
                    raise LimGpuError(f"{job.folder}: needs {missing[0].folder}, which failed")
                worker.do(job)
            except LimGpuError as error:
                failed[job] = str(error)
                reporter.error(error)
            advance(1)
    return [(job.folder, cause) for job, cause in failed.items()]


def _do_on_hosts(
    todo: Sequence[Job], grid: Grid, output: Path, device: str, seed: int, reporter: Reporter, cluster: Cluster
) -> list[tuple[str, str]]:
    """The same on the hosts of a cluster, in the order of what they need."""
    from lim_gpu.evaluate.hosts import do_on_hosts, with_absolute_paths
    from lim_gpu.evaluate.work import Worker

    def make(place: str) -> Worker:
        return Worker(with_absolute_paths(grid), output.absolute(), place, seed, Reporter(quiet=True))

    failed = do_on_hosts(todo, make, output, device, cluster, reporter)
    return [(job.folder, failed[job]) for job in todo if job in failed]
