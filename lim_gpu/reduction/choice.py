"""Which slices of one unit stay, and which kept slice stands for each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.pruning.checks import RANKED
from lim_gpu.pruning.ranking import Indices, Ranking
from lim_gpu.pruning.rules import every_n, leader, nearest_kept, on_gpu, random_choice, rank, to_numpy
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.measure import measure_unit
from lim_gpu.reduction.parts import UnitResult
from lim_gpu.reduction.picture import matrix_thumbnail, thumbnail_places
from lim_gpu.reduction.pieces import reading
from lim_gpu.reduction.request import HASH_BITS, Request
from lim_gpu.reduction.unit import Unit

if TYPE_CHECKING:
    import torch

    from lim_gpu.pruning.hashes import Search
    from lim_gpu.store.volume import Volume


def choose(
    unit: Unit, volumes: Sequence[Volume], request: Request, engine: StoredMatrix | None, parts: Path | None = None
) -> UnitResult:
    """Which slices of a unit stay. `volumes` are the unit's; `engine` is None for the baselines.

    parts: where what is measured of the unit stands, or will stand.

    Raises UnreadableVolumeError for a volume that cannot be read.
    """
    start = time.perf_counter()
    z = []
    for volume in volumes:
        with reading(volume):
            z.append(volume.z)
    if engine is None:
        kept = _baseline(unit, request)
        choice = _Choice(kept, *nearest_by_position(kept, unit.slices))
    else:
        choice = _by_similarity(unit, volumes, request, engine, parts)
    return UnitResult(
        unit=unit.name,
        volumes=[[entry.key, entry.shape[0]] for entry in unit.volumes],
        z=np.concatenate(z),
        kept=choice.kept,
        ranked=engine is not None and request.rule in RANKED,
        dropped=choice.dropped,
        removal_similarity=choice.removal_similarity,
        covered_by=choice.covered_by,
        similarity=choice.similarity,
        resolved_threshold=choice.resolved_threshold,
        borderline=choice.borderline,
        matrix=choice.picture,
        device=str(engine.device) if engine else "cpu",
        seconds=round(time.perf_counter() - start, 4),
    )


NONE = np.empty(0, dtype=np.int64)
NO_VALUES = np.empty(0, dtype=np.float64)


@dataclass(frozen=True)
class _Choice:
    kept: NDArray[np.int64]
    covered_by: NDArray[np.int64]
    similarity: NDArray[np.float32]
    dropped: NDArray[np.int64] = field(default_factory=lambda: NONE)
    removal_similarity: NDArray[np.float64] = field(default_factory=lambda: NO_VALUES)
    resolved_threshold: float | None = None
    borderline: int = 0
    picture: dict[str, Any] | None = None


def is_blank(volume: Volume, engine: StoredMatrix) -> bool:
    """Whether each slice of `volume` is one grey once it is mapped to 0..255, so that they all count as equal.

    The first that is not, mostly the middle one, ends the search.
    """
    n = volume.entry.shape[0]
    return all(int(np.ptp(engine.images(volume, [i]))) == 0 for i in (n // 2, *range(n)))


def _baseline(unit: Unit, request: Request) -> NDArray[np.int64]:
    if request.method == "all":
        return np.arange(unit.slices)
    if request.method == "every-n":
        return every_n(unit.slices, request.keep, request.keep_count)
    return random_choice(unit.slices, [request.seed, unit.place], request.keep, request.keep_count)


def nearest_by_similarity(
    measured: NDArray[Any], kept: NDArray[np.int64], method: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The kept slice (k,) most like each of n, ties to the lower, and that similarity.

    measured: what `measure_unit` gives of `method`, hashes (n,) or the matrix (n, n).
    """
    import torch

    pairs: _Matrix | _Hashes = (_Hashes if method == "hash" else _Matrix)(torch.from_numpy(measured))
    return pairs.nearest(kept)


def nearest_by_position(kept: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The kept slice (k,) nearest in position to each of n, ties to the lower; the similarity is not known: NaN."""
    places = np.arange(n)
    after = np.minimum(np.searchsorted(kept, places), len(kept) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = places - kept[before] <= np.abs(kept[after] - places)
    return np.where(nearer_before & (kept[before] <= places), kept[before], kept[after]), np.full(n, np.nan, np.float32)


class _Matrix:
    """Similarities of all pairs. What lies on a GPU is worked on there."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def rank(self, order: Indices | None, rule: str) -> Ranking:
        return rank(self.matrix, order, rule=rule)

    def leader(self, threshold: float, order: Indices | None) -> Indices:
        return leader(self.matrix, threshold, order)

    def nearest(self, kept: Indices) -> tuple[Indices, NDArray[np.float32]]:
        covered_by, similarity = nearest_kept(self.matrix, kept)
        return covered_by, similarity

    def picture(self) -> dict[str, Any]:
        return matrix_thumbnail(self.matrix if on_gpu(self.matrix) else to_numpy(self.matrix))


class _Hashes:
    """The same from hashes, of which no matrix is ever needed."""

    def __init__(self, hashes: torch.Tensor, search: Search | None = None) -> None:
        from lim_gpu.pruning import hashes as pruning  # compiled code: not for a plan or a help text

        self.hashes = hashes
        self.search = search
        self.pruning = pruning

    def rank(self, order: Indices | None, rule: str) -> Ranking:
        if order is None:
            return self.pruning.rank_hashes(self.hashes, self.search, rule=rule)
        return self.pruning.rank_hashes(self.hashes[order], self.search, rule=rule).renamed(order)

    def leader(self, threshold: float, order: Indices | None) -> Indices:
        bits = HASH_BITS * (1 - threshold)
        if order is None:
            return self.pruning.leader_hashes(self.hashes, bits)
        return np.sort(order[self.pruning.leader_hashes(self.hashes[order], bits)])

    def nearest(self, kept: Indices) -> tuple[Indices, NDArray[np.float32]]:
        covered_by, distance = self.pruning.nearest_kept(self.hashes, kept, self.search)
        return covered_by, (1 - distance / np.float32(HASH_BITS)).astype(np.float32)  # exact: whole 64ths

    def picture(self) -> dict[str, Any]:
        from lim_gpu.similarity.hash import matrix_of_hashes

        shown = to_numpy(self.hashes[thumbnail_places(len(self.hashes))])
        return matrix_thumbnail(matrix_of_hashes(shown.view(np.uint64)))


def _by_similarity(
    unit: Unit, volumes: Sequence[Volume], request: Request, engine: StoredMatrix, parts: Path | None
) -> _Choice:
    threshold, borderline = request.similarity_threshold, 0
    measured = measure_unit(unit, volumes, request, engine, parts)
    pairs: _Matrix | _Hashes
    if request.method == "hash":
        pairs = _Hashes(measured, engine.search)
    else:
        matrix, borderline = engine.refined(measured, volumes, threshold)
        pairs = _Matrix(matrix)
    order = np.array(sorted(range(unit.slices), key=str)) if request.order == "lexicographic" else None
    dropped, removals, stop = NONE, NO_VALUES, 0
    if request.rule == "leader":
        assert threshold is not None
        kept = pairs.leader(threshold, order)
    else:
        ranking = pairs.rank(order, request.rule)
        dropped, removals = ranking.dropped, ranking.similarity
        stop = ranking.stop(request.keep, request.keep_count, threshold)
        kept = ranking.survivors(stop)
    covered_by, similarity = pairs.nearest(kept)
    monotone = stop and request.rule != "facility"  # whose last removal says nothing of those before
    resolved = request.in_own_unit(float(removals[stop - 1])) if monotone else None
    return _Choice(kept, covered_by, similarity, dropped, removals, resolved, borderline, pairs.picture())
