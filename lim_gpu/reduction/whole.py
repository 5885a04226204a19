"""HASH of a whole data set on hosts: they hash its volumes and compare the hashes; one sequence comes of it here."""

from __future__ import annotations

from collections import deque
from contextlib import closing, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lim_gpu.cluster import run_batches
from lim_gpu.errors import LimGpuError
from lim_gpu.progress import Reporter
from lim_gpu.pruning.hashes import Search
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.measure import is_measured, measure_fingerprint
from lim_gpu.reduction.on_host import hash_batch, nearest_batch
from lim_gpu.reduction.parts import save_measure
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.share import Done, reduce_units
from lim_gpu.reduction.unit import Unit
from lim_gpu.store.slices import SliceStore

AREA = 1 << 33  # pairs of a task: seconds of one core


def reduce_whole(
    unit: Unit, store: SliceStore, request: Request, parts: Path | None, reporter: Reporter, how: dict[str, Any]
) -> Done:
    """Reduce a unit of many volumes by HASH. how: `cpus`, `gpus` and `worked` of `run_batches`."""
    engine = StoredMatrix(request.criterion, torch.device("cpu"))
    engine.search = SearchOnHosts(how["cpus"], how["gpus"])
    with nullcontext(parts) if parts else TemporaryDirectory() as folder:
        own, rest = Path(folder), unit
        failures: list[dict[str, str]] = []
        if not is_measured(unit, request, own):
            hashes, failures = _hashed(unit, store, request, reporter, how)
            rest = Unit(unit.name, unit.place, tuple(entry for entry in unit.volumes if entry.key in hashes))
            if not hashes:
                return Done(unit, None, failures)
            values = np.concatenate([hashes[entry.key] for entry in rest.volumes])
            save_measure(own, unit.name, measure_fingerprint(rest, request), values)
        [done] = reduce_units(deque([rest]), store, request, own, reporter, engines=[engine])
    return done._replace(unit=unit, failures=[*failures, *done.failures])


def _hashed(
    unit: Unit, store: SliceStore, request: Request, reporter: Reporter, how: dict[str, Any]
) -> tuple[dict[str, NDArray[np.int64]], list[dict[str, str]]]:
    """The hashes of each volume, by key, and those that cannot be read."""
    hashes: dict[str, NDArray[np.int64]] = {}
    failures = []
    batched = partial(hash_batch, store.path.absolute(), request.criterion, "cuda" if how["gpus"] else "cpu")
    with (
        reporter.track("hash", unit.slices, "slices") as advance,
        closing(run_batches(batched, unit.volumes, **how)) as outcomes,
    ):
        for outcome in outcomes:
            entry = unit.volumes[outcome.task]
            if outcome.error is None:
                hashes[entry.key] = outcome.value
            else:
                reporter.error(outcome.error)
                failures.append({"volume": entry.key, "cause": outcome.error})
            advance(entry.shape[0])
    places = {entry.key: place for place, entry in enumerate(unit.volumes)}
    return hashes, sorted(failures, key=lambda failure: places[failure["volume"]])


class SearchOnHosts(Search):
    """As `Search`; much at a time is compared by the hosts, in runs of queries with as many pairs each.

    The nearest of a query does not depend on the others, so nothing but the time does on the cutting.
    """

    def __init__(self, cpus: int, gpus: int) -> None:
        self._cpus, self._gpus = cpus, gpus

    def nearest(  # noqa: D102
        self, queries: torch.Tensor, pool: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        runs = runs_of(before.numpy())
        if len(runs) < 2:
            return super().nearest(queries, pool, before)
        place = "cuda" if self._gpus else "cpu"
        batched = partial(nearest_batch, queries.numpy(), pool.numpy(), before.numpy(), place)
        found, bits = torch.empty_like(before), torch.empty(len(queries), dtype=torch.uint8)
        with closing(run_batches(batched, runs, cpus=self._cpus, gpus=self._gpus)) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    raise LimGpuError(f"hashes cannot be compared: {outcome.error}")
                own = slice(*runs[outcome.task])
                found[own], bits[own] = map(torch.tensor, outcome.value)
        return found, bits


def runs_of(before: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Queries first .. last - 1 of each task, whose pairs are about AREA; `before`: how many each is compared with."""
    area = np.cumsum(before)
    if not len(area) or area[-1] <= AREA:
        return [(0, len(area))]
    cuts = np.unique(np.searchsorted(area, np.arange(AREA, area[-1], AREA)))
    bounds = [0, *cuts[cuts > 0].tolist(), len(area)]
    return list(pairwise(bounds))
