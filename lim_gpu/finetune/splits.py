"""Which images train, which choose and which test, for every run: a fixed split, folds, or repeated random splits.

Stratified by class; images of one patient, and images with equal pixels, never stand in two parts of a drawn split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.request import Request
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import Table
from lim_gpu.progress import counted

VALIDATION_PARTS = 10  # one of ten parts of what is left for training chooses the epoch (the paper's 90/10)
RANDOM_TEST_PARTS = 5  # one of five parts tests, where runs draw their own split
DEFAULT_RUNS = 5
FEWEST = 3  # groups of a class that folds can be drawn from: one trains, one chooses, one tests
VALIDATION, RANDOM = "validation", "a random split"
ROUNDING = 1e-9  # a fraction of a whole number of patients is no patient more

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The images of one run: places in the table. `seed` is of all that is random in it."""

    run: int
    seed: int
    train: Places
    val: Places
    test: Places


def splits_of(request: Request, table: Table, groups: Places) -> list[Split]:
    """The splits that are asked for, each with the fraction of its training patients that is."""
    splits = make_splits(table, request.runs, request.folds, request.seed, groups)
    if request.choose == "auc":
        _check_validation(table, splits)
    if request.fraction == 1:
        return splits
    parts = [take_fraction(table, split, request.fraction, groups) for split in splits]
    for part in parts:
        _check(table, part)
    return parts


def make_splits(table: Table, runs: int | None, folds: int | None, seed: int, groups: Places) -> list[Split]:
    """A split a run. The data's own split for every run; else `folds` of all images, or `runs` random splits.

    groups: (n,) equal numbers for images that must stay together. Raises UsageError when runs and folds contradict each
    other or the data, InputError when a class is too small.
    """
    if runs is not None and folds is not None:
        raise UsageError("--runs and --folds exclude each other. Give one of them")
    everything = np.arange(len(table))
    if table.split is not None:
        if folds is not None:
            raise UsageError(f"--folds {folds}: the split of {table.path} is fixed. Give --runs")
        train, val, test = (np.flatnonzero(table.split == place) for place in range(len(PARTS)))
        count = DEFAULT_RUNS if runs is None else runs
        drawn = [(train, val) if len(val) else _hold_out(table, groups, train, seed + run) for run in range(count)]
        splits = [Split(run, seed + run, *parts, test) for run, parts in enumerate(drawn)]
    elif runs is None:
        number = DEFAULT_RUNS if folds is None else folds
        fold = _deal(table, groups, everything, number, seed, f"--folds {number}")
        splits = [_around(table, groups, np.flatnonzero(fold == run), run, seed + run) for run in range(number)]
    else:
        tests = [
            np.flatnonzero(_deal(table, groups, everything, RANDOM_TEST_PARTS, seed + run, RANDOM) == 0)
            for run in range(runs)
        ]
        splits = [_around(table, groups, test, run, seed + run) for run, test in enumerate(tests)]
    for split in splits:
        _check(table, split)
    return splits


def take_fraction(table: Table, split: Split, fraction: float, groups: Places) -> Split:
    """The split with a fraction of its training patients: of every kind of them so many, rounded up.

    A patient's kind is the rarest class that he has. The order in which they are taken depends on the seed alone, so a
    smaller fraction is a part of a larger one.
    """
    own = groups[split.train]
    counts = np.bincount(table.labels[split.train], minlength=len(table.classes))
    rarest = {int(g): min(table.labels[split.train[own == g]], key=lambda c: (counts[c], c)) for g in np.unique(own)}
    order = np.random.default_rng(split.seed).permutation(np.array(sorted(rarest), dtype=np.int64)).tolist()
    taken: list[int] = []
    for kind in sorted(set(rarest.values())):
        alike = [group for group in order if rarest[group] == kind]
        taken += alike[: math.ceil(fraction * len(alike) - ROUNDING)]
    return replace(split, train=split.train[np.isin(own, taken)])


def _around(table: Table, groups: Places, test: Places, run: int, seed: int) -> Split:
    rest = np.setdiff1d(np.arange(len(table)), test)
    train, val = _hold_out(table, groups, rest, seed)
    return Split(run, seed, train, val, test)


def _hold_out(table: Table, groups: Places, places: Places, seed: int) -> tuple[Places, Places]:
    """`places` as nine parts to train on and one to choose by."""
    smallest = _smallest_class(table, groups, places)
    parts = max(2, min(VALIDATION_PARTS, smallest))
    fold = _deal(table, groups, places, parts, seed, VALIDATION)
    return places[fold != 0], places[fold == 0]


def _smallest_class(table: Table, groups: Places, places: Places) -> int:
    """Groups that the rarest class has among `places`."""
    return min(len(set(groups[places][table.labels[places] == c].tolist())) for c in range(len(table.classes)))


def _deal(table: Table, groups: Places, places: Places, parts: int, seed: int, what: str) -> NDArray[np.int64]:
    """(len(places),) a part for every image: groups whole, classes even.

    Groups go, the largest first and else in random order, to the part that holds least of their classes.
    scikit-learn's StratifiedGroupKFold means the same, but one seed gives other splits with other versions: shuffled,
    1.7.2 does not stratify (scikit-learn pull request 32540) and 1.9.1 does. A run must be one that can be repeated.
    """
    if parts < 2:
        raise UsageError(f"{what}: give 2 or more")
    for c, name in enumerate(table.classes):
        count = len(set(groups[places][table.labels[places] == c].tolist()))
        if count < parts:
            every = len(set(groups[table.labels == c].tolist()))
            raise _too_few(table, f"{name} has {counted(count, _unit(table))}", every, parts, what)
    totals = np.bincount(table.labels[places], minlength=len(table.classes))
    images: dict[int, list[int]] = {}
    for place, image in enumerate(places):
        images.setdefault(int(groups[image]), []).append(place)
    order = np.random.default_rng(seed).permutation(np.array(sorted(images), dtype=np.int64))
    held = np.zeros((parts, len(table.classes)))
    fold = np.empty(len(places), dtype=np.int64)
    for group in sorted(order.tolist(), key=lambda number: -len(images[number])):
        own = np.bincount(table.labels[places[images[group]]], minlength=len(table.classes))
        crowded = held @ (own / totals)
        best = np.lexsort((held.sum(axis=1), crowded.round(12)))[0]
        held[best] += own
        fold[images[group]] = best
    return fold


def _too_few(table: Table, has: str, every: int, parts: int, what: str) -> InputError:
    """The error for a class of `every` groups in all, of which there are too few to deal to so many parts."""
    if table.split is not None:
        remedy = "Give a split with val"
    elif every >= FEWEST:
        remedy = f"Give --folds {every}" + (" in place of --runs" if what == RANDOM else "")
    else:
        remedy = "Leave its rows out"
    return InputError(
        f"{table.path}: class {has}, too few for {parts} parts ({what}). {remedy}, or add {_unit(table)}s"
    )


def _unit(table: Table) -> str:
    return "patient" if table.patients is not None else "image"


def _check_validation(table: Table, splits: Sequence[Split]) -> None:
    """Raise InputError where a validation part lacks a class: nothing can be chosen by its AUC."""
    for split in splits:
        if absent := [label for label, count in table.counts(split.val).items() if not count]:
            where = f"the val part of run {split.run} has no image of class {', '.join(absent)}"
            raise InputError(
                f"{table.path}: {where}, and so no AUC. "
                "Give another --seed or --folds, --choose accuracy, or more patients"
            )


def _check(table: Table, split: Split) -> None:
    for name, places in (("train", split.train), ("test", split.test)):
        absent = [label for label, count in table.counts(places).items() if not count]
        if absent:
            raise InputError(
                f"{table.path}: the {name} part of run {split.run} has no image of class {', '.join(absent)}. "
                "Give fewer --folds, or more images"
            )
