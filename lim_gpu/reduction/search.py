"""Hashes compared by hosts, in runs of queries; what is made of it stays with who asks."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from lim_gpu.cluster import run_batches
from lim_gpu.errors import LimGpuError
from lim_gpu.pruning.hashes import Search
from lim_gpu.reduction.on_host import nearest_batch

AREA = 1 << 33  # pairs of a task: seconds of one core


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
