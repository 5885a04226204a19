"""The units of a reduction shared among the devices, each of which reads ahead while it works."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from lim_gpu.progress import Reporter
from lim_gpu.reduction.choice import choose, is_blank
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.measure import is_measured
from lim_gpu.reduction.parts import UnitResult, save_part
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.reader import READ_AHEAD
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.unit import Unit
from lim_gpu.store.slices import SliceStore


class Done(NamedTuple):
    """A unit that was reduced: its result, None where no volume of it can be read, and the volumes that cannot be.

    blank: volumes of one grey alone, see `is_blank`, of those that were measured now.
    """

    unit: Unit
    result: UnitResult | None
    failures: list[dict[str, str]]
    blank: int = 0


Finished = Generator[Done, None, None]


def engines_for(request: Request, device: str) -> list[StoredMatrix | None]:
    """One for each device. [None] for the baselines: they read no pixels and load no torch."""
    if request.method in BASELINES:
        return [None]
    from lim_gpu.similarity import resolve_devices

    return [StoredMatrix(request.criterion, place) for place in resolve_devices(device)]


def reduce_units(
    left: deque[Unit],
    store: SliceStore,
    request: Request,
    parts: Path | None,
    reporter: Reporter,
    *,
    engines: Sequence[StoredMatrix | None],
) -> Finished:
    """Reduce the units that are `left`, which empties it, by all `engines`; they finish in any order."""
    working = list(engines[: max(1, len(left))])

    def expect_with(engine: StoredMatrix | None) -> Callable[[Unit], None]:
        def expect(unit: Unit) -> None:
            if engine and not is_measured(unit, request, parts):
                engine.expect([store[entry.key] for entry in unit.volumes])

        return expect

    def reduce_share(engine: StoredMatrix | None) -> Finished:
        with engine.reading_ahead() if engine else nullcontext():
            for unit in _share(left, expect_with(engine), len(working)):
                yield _reduce_unit(store, unit, request, engine, parts, reporter)

    yield from _by_all(working, reduce_share)


def _share(left: deque[Unit], expect: Callable[[Unit], None], engines: int) -> Iterator[Unit]:
    """The units that one of `engines` takes out of those that are `left`, one after another.

    It takes some before their turn, so that they are read while it works: as many as fill its memory for that, but
    never more than its part of those that are left. `expect` is told which.
    """
    mine: deque[Unit] = deque()
    while left or mine:
        while left and (not mine or (_pixels(mine) < READ_AHEAD and len(mine) <= len(left) // engines)):
            try:
                mine.append(left.popleft())
            except IndexError:  # another engine was faster
                break
            expect(mine[-1])
        if mine:
            yield mine.popleft()


def _pixels(units: Sequence[Unit] | deque[Unit]) -> int:
    """Of all units but the first, whose turn it is."""
    shapes = [entry.shape for unit in units for entry in unit.volumes]
    first = [entry.shape for entry in units[0].volumes]
    return sum(n * height * width for n, height, width in shapes[len(first) :])


def _by_all(
    engines: Sequence[StoredMatrix | None], reduce_share: Callable[[StoredMatrix | None], Finished]
) -> Finished:
    """What the engines finish, in any order. Several work in a thread each; the first error ends all.

    Threads suffice: launches, kernels, reading and compiled code leave Python to the others.
    """
    if len(engines) == 1:
        yield from reduce_share(engines[0])
        return
    finished: SimpleQueue[Done | BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def work(engine: StoredMatrix | None) -> None:
        try:
            with closing(reduce_share(engine)) as share:
                for one in share:
                    finished.put(one)
                    if stop.is_set():
                        return
        except BaseException as error:  # whatever it is: a share that is missing must not go unseen
            finished.put(error)
        finally:
            finished.put(None)

    with ThreadPoolExecutor(len(engines)) as threads:
        for engine in engines:
            threads.submit(work, engine)
        working = len(engines)
        try:
            while working:
                one = finished.get()
                if isinstance(one, BaseException):
                    raise one
                if one is None:
                    working -= 1
                else:
                    yield one
        finally:
            stop.set()


def _reduce_unit(
    store: SliceStore,
    unit: Unit,
    request: Request,
    engine: StoredMatrix | None,
    parts: Path | None,
    reporter: Reporter,
) -> Done:
    """Reduce a unit; a volume that cannot be read is listed and the rest of its unit goes on without it."""
    entries, failures = unit.volumes, []
    try:
        while entries:
            remaining = Unit(unit.name, unit.place, entries)
            try:
                volumes = [store[entry.key] for entry in entries]
                measured = is_measured(remaining, request, parts)
                result = choose(remaining, volumes, request, engine, parts)
                blank = sum(is_blank(volume, engine) for volume in volumes) if engine and not measured else 0
            except UnreadableVolumeError as error:
                reporter.error(error)
                failures.append({"volume": error.key, "cause": str(error)})
                entries = tuple(entry for entry in entries if entry.key != error.key)
                continue
            if parts:
                save_part(parts, remaining.fingerprint(request), result)
            return Done(unit, result, failures, blank)
        return Done(unit, None, failures)
    finally:  # not before: they may be read ahead
        for entry in unit.volumes:
            store[entry.key].close()
