"""The units of a reduction shared among hosts, which read the store where it lies for all of them.

A host reduces units as one machine does, into a folder of its own; the files come back, and the one that shares out
puts them where they stand in the end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lim_gpu.cluster import Cluster, check_seen, connect, gpus_for, run_batches
from lim_gpu.files import write_bytes
from lim_gpu.progress import Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.share import Done, Finished, reduce_units
from lim_gpu.reduction.unit import Unit
from lim_gpu.sharing import HostError
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
        how = (
            store.path.absolute(),
            asked,
            request.parameters(),
            parts and parts.absolute(),
            "cuda" if gpus else "cpu",
        )
        batched = partial(reduce_batch, *how)
        with closing(run_batches(batched, units, cpus=cluster.cpus, gpus=gpus, worked=worked)) as outcomes:
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


def reduce_batch(
    store: Path, request: Request, parameters: dict[str, Any], parts: Path | None, device: str, units: Sequence[Unit]
) -> Iterator[TaskResult]:
    """On a host: each of `units` as a `Done` and its files, by name.

    parameters: those of `request` where it was made; weights of that name may have other contents here. parts: what was
    measured before is used where this host sees it.
    """
    check_seen([store / "volumes"])
    engine = _engine(request.criterion, device)
    if engine is not None:
        request = replace(request, criterion=engine.criterion)  # which remembers the digest of its weights
    if request.parameters() != parameters:
        raise HostError(f"{request.criterion.weights}: has other contents here. Give the same file to every host")
    entries = tuple(entry for unit in units for entry in unit.volumes)
    with _Volumes(store, entries) as volumes, TemporaryDirectory(prefix="lim-gpu-") as folder:
        own = Path(folder)
        if parts is not None:
            _lend(parts, own, units)
        reduced = reduce_units(deque(units), volumes, request, own, Reporter(quiet=True), engines=[engine])
        for place, done in enumerate(reduced):
            names = (f"{done.unit.name}.json", f"{done.unit.name}.npz")
            yield TaskResult(place, (done, {name: _taken(own / name) for name in names if _is_new(own / name)}))
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()  # another process may be given this GPU


class _Volumes(SliceStore):
    """Some volumes of a store, of which no index is read."""

    def __init__(self, path: Path, entries: tuple[Any, ...]) -> None:
        self.path = self._folder = path
        self.volumes = entries
        self._close_all()


@lru_cache(maxsize=1)
def _engine(criterion: Criterion, device: str) -> StoredMatrix | None:
    """Of this process: a network is loaded once. None for the baselines, as they read no pixels."""
    if criterion.method in BASELINES:
        return None
    from lim_gpu.similarity import resolve_device

    return StoredMatrix(criterion, resolve_device(device))


def _lend(parts: Path, own: Path, units: Sequence[Unit]) -> None:
    """Links to what was measured of `units` before."""
    for unit in units:
        if (parts / f"{unit.name}.npz").is_file():
            (own / f"{unit.name}.npz").symlink_to(parts / f"{unit.name}.npz")


def _is_new(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _taken(file: Path) -> bytes:
    """Its bytes, for which no room is kept here."""
    content = file.read_bytes()
    file.unlink()
    return content
