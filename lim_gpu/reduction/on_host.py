"""What a process of a host does of a reduction: units, or for HASH of a whole data set volumes and runs of queries."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.progress import Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.share import reduce_units
from lim_gpu.reduction.unit import Unit
from lim_gpu.sharing import HostError, check_seen
from lim_gpu.store.slices import SliceStore
from lim_gpu.temporary import temporary_folder
from lim_gpu.workers import TaskResult

if TYPE_CHECKING:
    from lim_gpu.store.volume import VolumeEntry


def reduce_batch(
    store: Path, request: Request, parameters: dict[str, Any], parts: Path | None, device: str, units: Sequence[Unit]
) -> Iterator[TaskResult]:
    """Each of `units` as a `Done` and its files, by name.

    parameters: those of `request` where it was made; weights of that name may have other contents here. parts: what was
    measured before is used where this host sees it.
    """
    check_seen([store / "volumes"])
    engine = engine_here(request.criterion, device)
    if engine is not None:
        request = replace(request, criterion=engine.criterion)  # which remembers the digest of its weights
    if request.parameters() != parameters:
        raise HostError(f"{request.criterion.weights}: has other contents here. Give the same file to every host")
    entries = tuple(entry for unit in units for entry in unit.volumes)
    with HostedVolumes(store, entries) as volumes, temporary_folder() as own:
        if parts is not None:
            _lend(parts, own, units)
        reduced = reduce_units(deque(units), volumes, request, own, Reporter(quiet=True), engines=[engine])
        for place, done in enumerate(reduced):
            yield TaskResult(place, (done, {file.name: _taken(file) for file in own.iterdir() if _is_new(file)}))
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()  # another process may be given this GPU


def hash_batch(store: Path, criterion: Criterion, device: str, entries: Sequence[VolumeEntry]) -> Iterator[TaskResult]:
    """The hashes (n,) int64 of each volume, or why it cannot be read."""
    check_seen([store / "volumes"])
    engine = engine_here(criterion, device)
    assert engine is not None
    with HostedVolumes(store, tuple(entries)) as volumes, engine.reading_ahead():
        for volume in volumes:
            engine.expect([volume])
        for place, volume in enumerate(volumes):
            try:
                yield TaskResult(place, engine.hashes([volume]).cpu().numpy())
            except UnreadableVolumeError as error:
                yield TaskResult(place, error=str(error))
            volume.close()


def nearest_batch(
    queries: NDArray[np.int64],
    pool: NDArray[np.int64],
    before: NDArray[np.int64],
    device: str,
    runs: Sequence[tuple[int, int]],
) -> Iterator[TaskResult]:
    """`Search.nearest` of some runs of queries."""
    import torch

    from lim_gpu.pruning.hashes import search_for

    there = torch.tensor(pool, device=device)
    for place, (first, last) in enumerate(runs):
        own = torch.tensor(queries[first:last], device=device)
        limits = torch.tensor(before[first:last], device=device)
        nearest, bits = search_for(there).nearest(own, there[: int(before[last - 1])], limits)
        yield TaskResult(place, (nearest.cpu().numpy(), bits.cpu().numpy()))


class HostedVolumes(SliceStore):
    """Some volumes of a store, of which no index is read."""

    def __init__(self, path: Path, entries: tuple[Any, ...]) -> None:
        self.path = self._folder = path
        self.volumes = entries
        self._close_all()


@lru_cache(maxsize=1)
def engine_here(criterion: Criterion, device: str) -> StoredMatrix | None:
    """That of this process: a network is loaded once. None for the baselines, as they read no pixels."""
    if criterion.method in BASELINES:
        return None
    from lim_gpu.similarity import resolve_device

    return StoredMatrix(criterion, resolve_device(device))


def _lend(parts: Path, own: Path, units: Sequence[Unit]) -> None:
    """Links to what was measured of `units` before."""
    for name in {f"{one.name}.npz" for unit in units for one in (unit, *unit.singly())}:
        if (parts / name).is_file():
            (own / name).symlink_to(parts / name)


def _is_new(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _taken(file: Path) -> bytes:
    """Its bytes, for which no room is kept here."""
    content = file.read_bytes()
    file.unlink()
    return content
