"""The configuration file of the first paper's evaluations: stores, tasks and options."""

from __future__ import annotations

import re
from os.path import expanduser
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.evaluate.grid import COMPARED, Grid, Task
from lim_gpu.files import read_toml


def read_grid(path: Path) -> Grid:
    """Parse a TOML file; paths in it are relative to it. Raises InputError or UsageError, naming the file."""
    values = read_toml(path)
    known = {"stores", "tasks", "weights", "budgets", "seeds", "method", "strengths", "keeps", "pretrain", "finetune"}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"{path}: {unknown[0]} is unknown. Give {', '.join(sorted(known))}")
    for name in ("stores", "tasks", "pretrain", "finetune"):
        if not isinstance(values.get(name, {}), dict):
            raise UsageError(f"{path}: [{name}] is no table. Give lines NAME = VALUE below [{name}]")
    if not values.get("tasks"):
        raise UsageError(f"{path}: [tasks] names no data set. Give one, such as COVID-19 = 'covid-ct'")
    budgets = tuple(values.get("budgets", ("epochs",)))
    if not budgets or set(budgets) - {"epochs", "steps"}:
        raise UsageError(f"{path}: budgets {list(budgets)} are unknown. Give 'epochs', 'steps' or both")
    seeds = values.get("seeds", 1)
    if type(seeds) is not int or seeds < 1:
        raise UsageError(f"{path}: seeds {seeds!r} is no number of pre-trainings. Give 1 or more")
    method = values.get("method", "swav")
    if method not in COMPARED:
        raise UsageError(f"{path}: method {method!r} is unknown. Give one of {', '.join(COMPARED)}")
    for name in (*values.get("stores", {}), *values["tasks"]):
        if not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"{path}: {name!r} is no name for a folder. Use letters, digits, dot, dash and underscore")
    home = path.parent
    return Grid(
        {name: home / expanduser(str(store)) for name, store in values.get("stores", {}).items()},
        tuple(_task(path, home, name, value) for name, value in values["tasks"].items()),
        home / expanduser(str(values["weights"])) if "weights" in values else None,
        budgets,
        seeds,
        values.get("pretrain", {}),
        values.get("finetune", {}),
        method=method,
        strengths=_numbers(path, values, "strengths", Grid.strengths, most=10),
        keeps=_numbers(path, values, "keeps", Grid.keeps, most=1),
    )


def _numbers(
    path: Path, values: dict[str, Any], name: str, default: tuple[float, ...], most: float
) -> tuple[float, ...]:
    found = values.get(name, default)
    numbers = isinstance(found, list | tuple) and found and all(type(value) in (int, float) for value in found)
    if not numbers or not all(0 < value < most for value in found):
        raise UsageError(f"{path}: {name} {found!r} are no numbers above 0 and below {most:g}. Give some in [ ]")
    return tuple(float(value) for value in found)


def _task(path: Path, home: Path, name: str, value: Any) -> Task:
    if isinstance(value, str):
        return Task(name, home / expanduser(value))
    known = {"data", "folds", "groups"}
    if not isinstance(value, dict) or set(value) - known or not isinstance(value.get("data"), str):
        form = "{ data = PATH, folds = N, groups = FILE }"
        raise UsageError(f"{path}: task {name} is no data set. Give a path, or {form}, the last two as needed")
    groups = home / expanduser(str(value["groups"])) if "groups" in value else None
    return Task(name, home / expanduser(value["data"]), value.get("folds"), groups)
