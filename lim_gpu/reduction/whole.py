"""HASH of a whole data set: its volumes are hashed one by one, here or by hosts; then one sequence comes of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

from lim_gpu.progress import Reporter
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.measure import is_measured
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.share import Done, Finished, reduce_units
from lim_gpu.reduction.unit import Unit
from lim_gpu.store.slices import SliceStore
from lim_gpu.temporary import temporary_folder

Measuring = Callable[[deque[Unit], SliceStore, Request, Path, Reporter], Finished]


def reduce_whole(
    left: deque[Unit],
    store: SliceStore,
    request: Request,
    parts: Path | None,
    reporter: Reporter,
    *,
    measure: Measuring,
    engine: StoredMatrix,
) -> Finished:
    """As `share.reduce_units`, for the one unit of a data set, of which many have to be hashed.

    measure: as `share.measure_units`, volume by volume; engine: what then compares the hashes.
    """
    while left:
        unit = left.popleft()
        with nullcontext(parts) if parts else temporary_folder() as own:
            failures, blank = _measured(unit, store, request, own, reporter, measure)
            lost = {failure["volume"] for failure in failures}
            rest = Unit(unit.name, unit.place, tuple(entry for entry in unit.volumes if entry.key not in lost))
            done = Done(unit, None, [])
            if rest.volumes:
                [done] = reduce_units(deque([rest]), store, request, own, reporter, engines=[engine])
        yield Done(unit, done.result, [*failures, *done.failures], blank + done.blank)


def _measured(
    unit: Unit, store: SliceStore, request: Request, parts: Path, reporter: Reporter, measure: Measuring
) -> tuple[list[dict[str, str]], int]:
    """Have `parts` hold the hashes of each volume. Returns the volumes that cannot be read, and how many are blank."""
    left = deque(one for one in unit.singly() if not is_measured(one, request, parts))
    if is_measured(unit, request, parts):  # as earlier versions kept it
        left.clear()
    done = []
    with (
        reporter.track("hash", sum(one.slices for one in left), "slices") as advance,
        closing(measure(left, store, request, parts, reporter)) as finished,
    ):
        for one in finished:
            done.append(one)
            advance(one.unit.slices)
    done.sort(key=lambda one: one.unit.place)
    return [failure for one in done for failure in one.failures], sum(one.blank for one in done)
