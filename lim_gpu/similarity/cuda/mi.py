"""Normalized mutual information of every pair of slices on the GPU: kernels/mi.cu.

The definition, the edges and the table of c log c stand in lim_gpu/similarity/mi.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from lim_gpu.cuda.blocks import Block, block_size, memory_for_blocks, over_pairs, square_matrix
from lim_gpu.cuda.module import SHARED_BYTES, Module, load
from lim_gpu.errors import UsageError
from lim_gpu.similarity.mi import BINS, MAX_BINS, bin_edges, c_log_c

THREADS = 512
STATIC_BYTES = 1024  # of shared memory left to the kernels beside the histogram
COUNT_BYTES = 4

# By version. The first takes any number of bins, the second what fits in the shared memory of a block as a whole: it is
# the faster (bench/NOTES.md), and the result is the same.
KERNELS = {"passes": "mi_pairs", "every": "mi_pairs_every"}


class Numbers(NamedTuple):
    """Of k slices: bin numbers (k, pitch), entropies (k) times the pixels in fixed point, fullest bins (k)."""

    numbers: torch.Tensor
    entropies: torch.Tensor
    modes: torch.Tensor


def mi_matrix(
    slices: torch.Tensor,
    bins: int = BINS,
    *,
    device: torch.device | None = None,
    budget: int | None = None,
    module: Module | None = None,
    version: str | None = None,
) -> torch.Tensor:
    """Normalized mutual information of every pair of slices (n, H, W), uint8 or float32: float32 (n, n) in [1, 2].

    device, budget and module are as for SSIM. version is one of KERNELS, by default "every" where the histogram fits in
    the shared memory of a block, else "passes". The joint counts are those of numpy.histogramdd, and the matrix is the
    CPU's bit for bit. Raises UsageError unless there are 2..256 bins, LimGpuError when two slices do not fit.
    """
    if not 2 <= bins <= MAX_BINS:
        raise UsageError(f"bins {bins} is outside 2..{MAX_BINS}. Give a number within")
    module = module or load("mi")
    device = device or slices.device
    n, pixels = len(slices), slices[0].numel()
    matrix = square_matrix(n, 2, device)
    table = _table(pixels).to(device)
    limit, whole = module.shared_limit(device), whole_bytes(bins)
    version = version or ("every" if whole + STATIC_BYTES <= limit else "passes")
    rows = histogram_rows(bins, limit)
    own = {"shared": whole} if version == "every" else {"shared": rows * bins * COUNT_BYTES, "rows_per_pass": rows}

    def prepare(first: int, last: int) -> Numbers:
        return _numbers(slices[first:last].to(device).flatten(1), bins, table, module)

    def compare(x: Block[Numbers], y: Block[Numbers]) -> None:
        modes: dict[str, Any] = {} if version == "every" else {"x_modes": x.content.modes, "y_modes": y.content.modes}
        module.launch(
            KERNELS[version], len(x.content.numbers) * len(y.content.numbers), THREADS,
            x_numbers=x.content.numbers, x_entropies=x.content.entropies, x_first=x.first,
            y_numbers=y.content.numbers, y_entropies=y.content.entropies, y_first=y.first,
            c_log_c=table, matrix=matrix, bins=bins, **modes, **own,
        )  # fmt: skip

    bytes_per_slice = _pitch(pixels, module) + pixels * slices.element_size()
    budget = memory_for_blocks(device) if budget is None else budget
    over_pairs(n, block_size(n, bytes_per_slice, budget), prepare, compare)
    return matrix


def mi_matrix_plain(slices: torch.Tensor, bins: int = BINS, *, module: Module | None = None) -> torch.Tensor:
    """The same matrix by the plain kernel, which counts every pixel: the specification and the baseline."""
    module = module or load("mi")
    matrix = square_matrix(len(slices), 2, slices.device)
    table = _table(slices[0].numel()).to(slices.device)
    numbers, entropies, _ = _numbers(slices.flatten(1), bins, table, module)
    rows = histogram_rows(bins, module.shared_limit(slices.device))
    module.launch(
        "mi_pairs_plain", len(slices) ** 2, THREADS, shared=rows * bins * COUNT_BYTES, numbers=numbers,
        entropies=entropies, c_log_c=table, matrix=matrix, bins=bins, rows_per_pass=rows,
    )  # fmt: skip
    return matrix


def whole_bytes(bins: int) -> int:
    """Of shared memory for a whole joint histogram and the spare bin behind it (mi.cu), in pieces of 16 bytes."""
    return -(-(bins * bins + bins + 1) * COUNT_BYTES // 16) * 16


def histogram_rows(bins: int, limit: int) -> int:
    """Rows of a joint histogram counted in one pass: all in 48 KiB, else the fewest even passes in `limit` bytes."""
    if bins * bins * COUNT_BYTES + STATIC_BYTES <= SHARED_BYTES:
        return bins
    passes = -(-bins // ((limit - STATIC_BYTES) // (bins * COUNT_BYTES)))
    return -(-bins // passes)


def _numbers(slices: torch.Tensor, bins: int, table: torch.Tensor, module: Module) -> Numbers:
    """What belongs to single slices (k, pixels) on the device, computed once."""
    n, pixels = slices.shape
    low, high = (ends.cpu().numpy() for ends in torch.aminmax(slices, dim=1))
    edges = np.stack([_edges(*ends, bins) for ends in zip(low, high, strict=True)]).astype(np.float64)
    numbers = torch.empty((n, _pitch(pixels, module)), dtype=torch.uint8, device=slices.device)
    kernel = "mi_bins_u8" if slices.dtype == torch.uint8 else "mi_bins_f32"
    parts = min(32, -(-pixels // 1024))
    edges_there = torch.from_numpy(edges).to(slices.device)
    module.launch(kernel, (n, parts), 256, slices=slices, edges=edges_there, numbers=numbers)
    entropies = torch.empty(n, dtype=torch.int64, device=slices.device)
    modes = torch.empty(n, dtype=torch.int32, device=slices.device)
    module.launch("mi_marginals", n, THREADS, numbers=numbers, c_log_c=table, entropies=entropies, modes=modes)
    return Numbers(numbers, entropies, modes)


def _pitch(pixels: int, module: Module) -> int:
    piece = module.constants["PIECE"]
    return -(-pixels // piece) * piece


_edges = lru_cache(maxsize=1024, typed=True)(bin_edges)  # slices mapped to 8 bits mostly share 0..255


@lru_cache(maxsize=8)
def _table(pixels: int) -> torch.Tensor:
    return torch.from_numpy(c_log_c(pixels))
