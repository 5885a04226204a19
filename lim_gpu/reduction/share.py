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
from lim_gpu.reduction.measure import measure_unit, unmeasured
from lim_gpu.reduction.parts import UnitResult, save_part
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.reader import READ_AHEAD
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.unit import Unit
from lim_gpu.store.slices import SliceStore


class Done(NamedTuple):
    """A unit that was reduced: its result, and the volumes that cannot be read.

    No result where none can be, or where the unit was only measured. blank: volumes of one grey alone, see `is_blank`,
    of those that were measured now.
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
    return _with_engines(_reduce_unit, left, store, request, parts, reporter, engines)


def measure_units(
    left: deque[Unit],
    store: SliceStore,
    request: Request,
    parts: Path,
    reporter: Reporter,
    *,
    engines: Sequence[StoredMatrix | None],
) -> Finished:
    """As `reduce_units`, but what is measured of single volumes is all that comes of it, and stands in `parts`."""
    return _with_engines(_measure_unit, left, store, request, parts, reporter, engines)


def _with_engines(
    work: Callable[..., Done],
    left: deque[Unit],
    store: SliceStore,
    request: Request,
    parts: Path | None,
    reporter: Reporter,
    engines: Sequence[StoredMatrix | None],
) -> Finished:
    working = list(engines[: max(1, len(left))])

    def expect_with(engine: StoredMatrix | None) -> Callable[[Unit], None]:
        def expect(unit: Unit) -> None:
            if engine and (new := unmeasured(unit, request, parts)):
                engine.expect([store[entry.key] for entry in new])

        return expect

    def work_off(engine: StoredMatrix | None) -> Finished:
        with engine.reading_ahead() if engine else nullcontext():
            for unit in _share(left, expect_with(engine), len(working)):
                yield work(store, unit, request, engine, parts, reporter)

    yield from _by_all(working, work_off)


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
                new = unmeasured(remaining, request, parts) if engine else []
                result = choose(remaining, volumes, request, engine, parts)
                blank = sum(is_blank(store[entry.key], engine) for entry in new) if engine else 0
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


def _measure_unit(
    store: SliceStore, unit: Unit, request: Request, engine: StoredMatrix, parts: Path, reporter: Reporter
) -> Done:
    """Measure a volume, if that does not stand."""
    volume = store[unit.name]
    try:
        new = unmeasured(unit, request, parts)
        measure_unit(unit, [volume], request, engine, parts)
        return Done(unit, None, [], sum(is_blank(volume, engine) for _ in new))
    except UnreadableVolumeError as error:
        reporter.error(error)
        return Done(unit, None, [{"volume": error.key, "cause": str(error)}])
    finally:
        volume.close()
