"""The units of a reduction shared among hosts, which read the store where it lies for all of them.

A host reduces units as one machine does, into a folder of its own; the files come back, and the one that shares out
puts them where they stand in the end.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.cluster import Cluster, connect, gpus_for, run_batches
from lim_gpu.files import write_bytes
from lim_gpu.progress import Reporter
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.measure import measure_fingerprint
from lim_gpu.reduction.on_host import hash_batch, reduce_batch
from lim_gpu.reduction.parts import save_measure
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.share import Done, Finished
from lim_gpu.reduction.unit import Unit
from lim_gpu.reduction.whole import reduce_whole
from lim_gpu.store.slices import SliceStore
from lim_gpu.workers import TaskResult


def reduce_on_hosts(
    left: deque[Unit],
    store: SliceStore,
    request: Request,
    parts: Path | None,
    reporter: Reporter,
    *,
    cluster: Cluster,
    device: str,
    worked: Counter[str],
) -> Finished:
    """As `share.reduce_units`, on the hosts of `cluster`; a unit that none can do is a failure of its volumes.

    worked: gets the number of units that each host did. Raises as `cluster.run_batches`.
    """
    units = list(left)
    left.clear()
    if not units:
        return
    criterion = request.criterion
    weights = criterion.weights and criterion.weights.absolute()  # a host works in another folder
    asked = replace(request, criterion=replace(criterion, weights=weights))
    with connect(cluster.address) as hosts:
        reporter.note(f"ray: {hosts}")
        gpus = 0 if request.method in BASELINES else gpus_for(device)
        how: dict[str, Any] = {"cpus": cluster.cpus, "gpus": gpus, "worked": worked}
        if request.is_whole:
            yield from _reduce_whole(deque(units), store, request, parts, reporter, how)
            return
        place, seen = "cuda" if gpus else "cpu", parts and parts.absolute()
        batched = partial(reduce_batch, store.path.absolute(), asked, request.parameters(), seen, place)
        with closing(run_batches(batched, units, **how)) as outcomes:
            for outcome in outcomes:
                yield _done(units[outcome.task], outcome, parts, reporter)


def _done(unit: Unit, outcome: TaskResult, parts: Path | None, reporter: Reporter) -> Done:
    """A unit that came back; its files are put in place."""
    if outcome.error is not None:
        reporter.error(f"{unit.name}: {outcome.error}")
        return Done(unit, None, [{"volume": entry.key, "cause": outcome.error} for entry in unit.volumes])
    done, files = outcome.value
    for failure in done.failures:
        reporter.error(failure["cause"])
    for name, content in files.items() if parts else ():
        write_bytes(parts / name, content)
    return done._replace(unit=unit)


def _reduce_whole(
    left: deque[Unit], store: SliceStore, request: Request, parts: Path | None, reporter: Reporter, how: dict[str, Any]
) -> Finished:
    """HASH of a data set: the hosts hash its volumes, and compare the hashes."""
    import torch

    from lim_gpu.reduction.search import SearchOnHosts

    engine = StoredMatrix(request.criterion, torch.device("cpu"))
    engine.search = SearchOnHosts(how["cpus"], how["gpus"])
    measure = partial(_measure_on_hosts, how=how)
    return reduce_whole(left, store, request, parts, reporter, measure=measure, engine=engine)


def _measure_on_hosts(
    left: deque[Unit], store: SliceStore, request: Request, parts: Path, reporter: Reporter, *, how: dict[str, Any]
) -> Finished:
    """As `share.measure_units`."""
    units = list(left)
    left.clear()
    place = "cuda" if how["gpus"] else "cpu"
    batched = partial(hash_batch, store.path.absolute(), request.criterion, place)
    with closing(run_batches(batched, [unit.volumes[0] for unit in units], **how)) as outcomes:
        for outcome in outcomes:
            unit = units[outcome.task]
            if outcome.error is not None:
                reporter.error(outcome.error)
                yield Done(unit, None, [{"volume": unit.name, "cause": outcome.error}])
                continue
            save_measure(parts, unit.name, measure_fingerprint(unit, request), outcome.value)
            yield Done(unit, None, [])
