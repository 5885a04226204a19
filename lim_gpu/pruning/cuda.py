"""Pruning a similarity matrix on the GPU: kernels/prune.cu. The definitions stand in lim_gpu/pruning/rules.py.

Matrices are float32 (n, n) without NaN and +inf, and stay where they are: only rankings come to the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lim_gpu.cuda.module import Module, load

Indices = NDArray[np.int64]

WARP = 32
THREADS = 256
MOST_BLOCKS = 1 << 16  # prune_nearest goes on with what is left
RANGE_BYTES = 64 << 20  # of the matrix that `finite_range` looks at together


def rank(
    matrix: torch.Tensor, order: Indices | None = None, *, plain: bool = False, module: Module | None = None
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """The removal sequence: which places go (m,), which stay (m,), their similarities (m,); m <= n - 1.

    order   permutation (n,) of the slices, by default as they come: place 0 is slice order[0]
    plain   by the plain kernel: the specification and the baseline
    """
    module = module or load("prune")
    n, device = len(matrix), matrix.device
    places = _upload(np.arange(n) if order is None else order, device)
    rows = torch.arange(n, dtype=torch.int32, device=device)
    best = torch.zeros(n, dtype=torch.int64, device=device)
    gone = torch.zeros(n, dtype=torch.uint8, device=device)
    removals = torch.full((n, 3), -1, dtype=torch.int32, device=device)
    given: dict[str, Any] = {"matrix": _bits(matrix), "order": places, "best": best, "gone": gone}
    if plain:
        module.launch("prune_rank_plain", 1, _threads(n), rows=rows, removals=removals, **given)
    else:
        module.launch("prune_rows", n, THREADS, rows=rows, **given)
        module.launch("prune_rank", 1, _threads(n), again=rows, removals=removals, **given)
    sequence = removals.cpu().numpy()
    sequence = sequence[: np.count_nonzero(sequence[:, 0] >= 0)]
    dropped, covered_by, bits = np.ascontiguousarray(sequence.T)
    return dropped.astype(np.int64), covered_by.astype(np.int64), bits.view(np.float32).astype(np.float64)


def leader(
    matrix: torch.Tensor, threshold: float, order: Indices | None = None, *, module: Module | None = None
) -> Indices:
    """The places in `order` that the leader rule keeps, ascending; one goes at a similarity >= `threshold`, in float64.

    Which floats reach a float64 is decided here; the kernel compares whole numbers.
    """
    n, device = len(matrix), matrix.device
    places = _upload(np.arange(n) if order is None else order, device)
    gone = torch.zeros(n, dtype=torch.uint8, device=device)
    (module or load("prune")).launch(
        "prune_leader", 1, _threads(n), matrix=_bits(matrix), order=places, gone=gone, limit=limit_key(threshold)
    )
    return np.flatnonzero(gone.cpu().numpy() == 0)


def nearest_kept(
    matrix: torch.Tensor, kept: Indices, *, module: Module | None = None
) -> tuple[Indices, NDArray[np.float32]]:
    """The kept slice most similar to each of n, ties to the lowest index, itself where kept; and that similarity."""
    n, device = len(matrix), matrix.device
    nearest = torch.empty(n, dtype=torch.int32, device=device)
    blocks = min(-(-n // (THREADS // WARP)), MOST_BLOCKS)
    (module or load("prune")).launch(
        "prune_nearest", blocks, THREADS, matrix=_bits(matrix), kept=_upload(kept, device), nearest=nearest
    )
    stays = torch.from_numpy(kept).to(device)
    covered_by = stays[nearest.long()]
    covered_by[stays] = stays
    similarity = matrix.gather(1, covered_by[:, None])[:, 0]
    return covered_by.cpu().numpy(), similarity.cpu().numpy()


def finite_range(matrix: torch.Tensor) -> tuple[float, float]:
    """Lowest and highest value off the diagonal that is not -inf; the diagonal's own when n is 1, zeros for none."""
    n = len(matrix)
    off = matrix.reshape(-1)[1:].view(n - 1, n + 1)[:, :-1] if n > 1 else matrix
    ends = []
    for rows in off.split(max(1, RANGE_BYTES // (4 * n))):
        ends.append(torch.stack([torch.where(rows == -torch.inf, torch.inf, rows).amin(), rows.amax()]))
    each = torch.stack(ends).cpu().numpy()
    low, high = float(each[:, 0].min()), float(each[:, 1].max())
    return (low, high) if high > -np.inf else (0.0, 0.0)


def limit_key(threshold: float) -> int:
    """The least key (see prune.cu) of a float32 that is >= `threshold` in float64."""
    with np.errstate(over="ignore"):
        limit = np.float32(threshold)
    if float(limit) < threshold:
        limit = np.nextafter(limit, np.float32(np.inf))
    bits = int(np.abs(limit).view(np.uint32))
    return 2**31 + bits if limit >= 0 else 2**31 - 1 - bits


def _threads(n: int) -> int:
    """Of the one block that decides: a row each, as far as there are threads."""
    return min(-(-n // WARP) * WARP, 1024)


def _bits(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.contiguous().view(torch.int32)


def _upload(indices: Indices, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(indices.astype(np.int32)).to(device)
