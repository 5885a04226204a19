"""The configuration file of the second paper's evaluations: stores, checkpoints, tasks and options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from os.path import expanduser
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.evaluate.study import (
    ATTRIBUTES,
    CLASSIFICATION,
    FRACTIONS,
    HELD_OUT,
    SEGMENTATION,
    TASKS,
    TRAIN,
    Study,
    Task,
)
from lim_gpu.files import read_toml
from lim_gpu.finetune.protocol import Protocol

PRETRAIN = {"preset": "tariq2024-paper"}
DEFAULTS: dict[str, dict[str, Any]] = {CLASSIFICATION: {"choose": "auc"}, SEGMENTATION: {}, ATTRIBUTES: {"flip": False}}
BASELINE = {"backbone": "timm:legacy_seresnext50_32x4d", "init": "imagenet"}
PROTOCOL = tuple(one.name for one in fields(Protocol) if one.name != "name")
INTENSITY = ("intensity", "window", "hu_range", "body")
REQUEST = ("runs", "folds", "positive", "context", "choose", "backbone", "init")
OPTIONS = ("protocol", *PROTOCOL, *INTENSITY, *REQUEST)
PATHS = ("data", "labels", "split")
SECTIONS = ("stores", "checkpoints", "pretrain", "finetune", *TASKS, "baseline")


def read_study(path: Path) -> Study:
    """Parse a TOML file; paths in it are relative to it. Raises InputError or UsageError, naming the file."""
    values = read_toml(path)
    _check_names(path, "", values, ("seeds", *SECTIONS))
    for name in SECTIONS:
        if not isinstance(values.get(name, {}), dict):
            raise UsageError(f"{path}: [{name}] is no table. Give lines NAME = VALUE below [{name}]")
    seeds = values.get("seeds", 1)
    if type(seeds) is not int or seeds < 1:
        raise UsageError(f"{path}: seeds {seeds!r} is no number of pre-trainings. Give 1 or more")
    _check_names(path, "stores", values.get("stores", {}), (TRAIN, HELD_OUT))
    for name in ("finetune", "baseline"):
        _check_names(path, name, values.get(name, {}), OPTIONS)
    for name in values.get("checkpoints", {}):
        if not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"{path}: {name!r} is no name for a folder. Use letters, digits, dot, dash and underscore")
    common = values.get("finetune", {})
    return Study(
        _paths(path, values.get("stores", {})),
        _paths(path, values.get("checkpoints", {})),
        PRETRAIN | values.get("pretrain", {}),
        {name: _task(path, name, values[name], common) for name in TASKS if name in values},
        BASELINE | values.get("baseline", {}),
        seeds,
    )


def _task(path: Path, name: str, values: dict[str, Any], common: dict[str, Any]) -> Task:
    own = ("targets",) if name == ATTRIBUTES else ("fractions",) + (("target",) if name == CLASSIFICATION else ())
    _check_names(path, name, values, (*OPTIONS, *PATHS, *own))
    if not isinstance(values.get("data"), str):
        raise UsageError(f"{path}: [{name}] names no data. Give data = PATH, a store with labels = CSV or a folder")
    options = DEFAULTS[name] | common | {key: value for key, value in values.items() if key not in own}
    options |= _paths(path, {key: values[key] for key in PATHS if key in values})
    if name == ATTRIBUTES:
        return Task(options, _several(path, name, "targets", values, str), (1.0,))
    fractions = _several(path, name, "fractions", {"fractions": FRACTIONS} | values, int | float)
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise UsageError(f"{path}: [{name}] fractions {list(fractions)}: give 0 < F <= 1 each, such as 0.1")
    return Task(options, (values.get("target", ""),), tuple(sorted({float(fraction) for fraction in fractions})))


def _several(path: Path, section: str, name: str, values: Mapping[str, Any], kind: Any) -> tuple[Any, ...]:
    found = values.get(name, ())
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, kind) for one in found):
        raise UsageError(f"{path}: [{section}] {name} {found!r} is no list of one or more. Give {name} = [...]")
    return tuple(found)


def _check_names(path: Path, section: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(set(values) - set(known)):
        where = f"{path}: [{section}]" if section else f"{path}:"
        raise UsageError(f"{where} {unknown[0]} is unknown. Give {', '.join(known)}")


def _paths(path: Path, values: Mapping[str, Any]) -> dict[str, Path]:
    return {name: path.parent / expanduser(str(value)) for name, value in values.items()}
