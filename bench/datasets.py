"""A data set of volumes made one after another and reduced to matrices: seconds of the matrices alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from bench.inputs import SIZE, DataSet, volume
from bench.timing import once


@dataclass
class Share:
    """How much of a data set was run."""

    seconds: float = 0
    volumes: int = 0
    slices: int = 0
    pairs: int = 0


def run(
    data_set: DataSet, device: str, compute: Callable[[torch.Tensor], object], budget: float, size: int = SIZE
) -> Share:
    """Compute volume after volume, which come in a random order, until all are done or `budget` seconds are spent.

    Making the volumes is not in the seconds, but in the budget.
    """
    share = Share()
    compute(volume(8, device, size=size))  # warms up
    start = time.monotonic()
    for number, n in enumerate(data_set.sizes()):
        slices = volume(n, device, seed=number, size=size)
        share.seconds += once(partial(compute, slices), device)
        share.volumes += 1
        share.slices += n
        share.pairs += n * (n - 1) // 2
        if time.monotonic() - start > budget:
            break
    return share
