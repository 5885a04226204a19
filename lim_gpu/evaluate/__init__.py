"""The paper's evaluations as grids of reduce, pretrain and finetune jobs (Wolf et al. 2024, section 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.evaluate.grid import EVALUATIONS, Grid, Job, jobs, needs, read_grid
from lim_gpu.evaluate.table import caveats, markdown, table, time_picture
from lim_gpu.files import locked, replacing, write_text
from lim_gpu.progress import Reporter

PRETRAIN = {"epochs": 800, "batch_size": 128, "backbone": "resnet50", "preset": "wolf2024-paper"}
FINETUNE = {"runs": 5, "epochs": 70}


@dataclass(frozen=True)
class Evaluated:
    """`values` for a program, `lines` for a person; `failures` of jobs that could not be done."""

    values: dict[str, Any]
    lines: list[str]
    failures: list[tuple[str, str]]


def evaluate(
    evaluations: Sequence[str],
    output: Path,
    *,
    config: Path | None = None,
    smoke: bool = False,
    plan: bool = False,
    device: str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Evaluated:
    """Run evaluations "0", "A".."E" into the folder `output`: one folder a job, resumable, nothing done twice.

    config  a TOML file with stores, tasks and options (see `lim_gpu.evaluate.grid`); or smoke: procedural data, minutes
    plan    only list the jobs, with hours estimated from a measured training step, and disk

    A job that fails is reported, what needs it is left out, and the rest goes on. Raises UsageError for a contradictory
    call, InputError for a configuration that cannot be read.
    """
    reporter = reporter or Reporter(quiet=True)
    asked = tuple(name for name in EVALUATIONS if name in evaluations)
    if unknown := sorted(set(evaluations) - set(EVALUATIONS)):
        raise UsageError(f"evaluation {unknown[0]!r} is unknown. Give {', '.join(EVALUATIONS)}")
    if smoke == (config is not None):
        raise UsageError("give --config grid.toml or --preset smoke")
    if smoke:
        from lim_gpu.evaluate.smoke import smoke_grid

        grid = smoke_grid(output / "data", seed, reporter)
    else:
        assert config is not None
        grid = read_grid(config)
    grid = replace(grid, pretrain=PRETRAIN | grid.pretrain, finetune=FINETUNE | grid.finetune)
    todo = jobs(asked, grid)
    if plan:
        from lim_gpu.evaluate.estimate import estimate

        values, lines = estimate(todo, grid, output, device, seed)
        return Evaluated(values, lines, [])
    with locked(output):
        failures = _do(todo, grid, output, device, seed, reporter)
    about = {"pretrain": grid.pretrain, "finetune": grid.finetune, "seed": seed}
    rows = {name: table(name, grid, output) for name in asked}
    notes = caveats(grid, about)
    text = "\n".join(markdown(name, rows[name], grid, notes) for name in asked)
    values = {"format": "lim-gpu-evaluation", "version": 1, "tables": rows, "caveats": notes, "failures": failures}
    values |= {"versions": {name: version(name) for name in ("lim-gpu", "torch", "torchvision")}}
    if "D" in asked:
        with replacing(output / "time-auc.png") as temporary:
            time_picture(rows["D"], grid).savefig(temporary, format="png", dpi=110)
    write_text(output / "evaluation.json", json.dumps(values, indent=1, allow_nan=False) + "\n")
    write_text(output / "evaluation.md", text)
    return Evaluated(values, [*text.splitlines(), f"-> {output / 'evaluation.md'}"], failures)


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
