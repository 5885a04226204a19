"""One share of a reduction, beside others at once, whose parts one run then puts together."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from lim_gpu.files import locked, remove_stale
from lim_gpu.progress import Reporter
from lim_gpu.reduction.parts import parts_folder
from lim_gpu.reduction.record import record_of
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.share import Done, engines_for, measure_units, reduce_units
from lim_gpu.reduction.standing import Filler, comparable, in_store_order, reduced
from lim_gpu.selection import Selection
from lim_gpu.shard import Shard
from lim_gpu.store.slices import SliceStore


def reduce_shard(
    store: SliceStore, request: Request, csv_path: Path, device: str, shard: Shard, reporter: Reporter
) -> list[Done]:
    """Reduce one share of the units into NAME.parts, beside other shares at once; `reduce` then finds them there.

    Of HASH of a data set a share of its volumes is hashed. Returns its units. Raises as `reduce`.
    """
    parts = parts_folder(csv_path)
    engines = engines_for(request, device)
    units = comparable(store, request)
    fill: Filler = partial(reduce_units, engines=engines)
    if request.is_whole:
        fill, units = partial(measure_units, engines=engines), units[0].singly()
    with locked(parts, shared=True):
        remove_stale(parts)
        return reduced(shard.of(units), fill, store, request, parts, reporter)


def selection_of_shard(
    store: SliceStore, request: Request, csv_path: Path, device: str, shard: Shard, reporter: Reporter
) -> Selection:
    """The same, and what was selected of its units, none of them of HASH of a data set; it stands in no file."""
    start = time.perf_counter()
    done = reduce_shard(store, request, csv_path, device, shard, reporter)
    results = [one.result for one in done if one.result is not None]
    failures = [failure for one in done for failure in one.failures]
    record = record_of(store, request, results, failures, time.perf_counter() - start)
    return Selection(in_store_order(store, results), record | {"shard": str(shard)})
