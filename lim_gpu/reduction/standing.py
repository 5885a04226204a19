"""The units of a reduction: what stands of them is used again, and the others are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.progress import Reporter, counted, telling
from lim_gpu.reduction.measure import borrow_hashes
from lim_gpu.reduction.parts import UnitResult, load_part
from lim_gpu.reduction.request import SIMILARITIES, Request
from lim_gpu.reduction.share import Done, Finished
from lim_gpu.reduction.unit import Unit, in_words, units_of
from lim_gpu.selection import VolumeSelection
from lim_gpu.store.slices import SliceStore

Filler = Callable[[deque[Unit], SliceStore, Request, Path | None, Reporter], Finished]


def comparable(store: SliceStore, request: Request) -> list[Unit]:
    """The units of a request. Raises InputError where there is nothing to compare in any."""
    units = units_of(store.volumes, request.scope)
    if request.method in SIMILARITIES and not any(unit.pairs(request.method) for unit in units):
        wider = "Give --scope dataset" if request.scope != "dataset" else "Give --method hash"
        raise InputError(f"{store.path}: no {request.scope} has two slices that {request.method} can compare. {wider}")
    return list(units)


def reduced(
    units: Sequence[Unit], fill: Filler, store: SliceStore, request: Request, parts: Path | None, reporter: Reporter
) -> list[Done]:
    """The results of units in their order: those that stand in `parts`, and those that `fill` makes."""
    done: list[Done] = []

    def how_far() -> str:
        return f"{len(done):,} of {counted(len(units), in_words(request.scope))} done by {request.method}"

    total = sum(unit.slices for unit in units)
    with telling(how_far), reporter.track(f"reduce {request.method}", total, "slices") as advance:
        done, left = _standing_units(units, request, parts)
        if parts and request.method == "hash":
            borrow_hashes(left, request, parts)
        advance(sum(one.unit.slices for one in done))
        if done:
            reporter.note(f"done already: {len(done)} of {counted(len(units), 'unit')}")
        with closing(fill(left, store, request, parts, reporter)) as finished:
            for one in finished:
                done.append(one)
                advance(one.unit.slices)
    return sorted(done, key=lambda one: one.unit.place)  # several engines finish in any order


def _standing_units(units: Sequence[Unit], request: Request, parts: Path | None) -> tuple[list[Done], deque[Unit]]:
    """Those whose results stand in `parts`, and those that are left."""
    done: list[Done] = []
    left: deque[Unit] = deque()
    for unit in units:
        result = load_part(parts, unit.name, unit.fingerprint(request)) if parts else None
        if result is None:
            left.append(unit)
        else:
            done.append(Done(unit, result, []))
    return done, left


def in_store_order(store: SliceStore, results: Sequence[UnitResult]) -> tuple[VolumeSelection, ...]:
    """The volumes of all results, as the store has them."""
    by_key = {volume.key: volume for result in results for volume in result.split()}
    return tuple(by_key[entry.key] for entry in store.volumes if entry.key in by_key)
