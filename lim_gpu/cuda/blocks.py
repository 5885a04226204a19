"""All pairs of slices within the memory that is free: blocks of slices against blocks of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch

from lim_gpu.errors import LimGpuError

SHARE = 0.8  # of the free memory: torch's allocator rounds up and splits
MOST = 4 << 30  # bytes for blocks; more would not be faster, and 5,000 slices of 512 x 512 stay below 8 GiB in all

MOST_SLICES = 1 << 15  # in a block: the pairs of two are blocks of threads, at most 2^31 of them

T = TypeVar("T")


class Block(NamedTuple, Generic[T]):
    """Slices first .. first + count of a volume, as `prepare` made them."""

    first: int
    content: T


class Pairs(NamedTuple):
    """Slices rows[0] .. rows[1] against columns[0] .. columns[1]."""

    rows: tuple[int, int]
    columns: tuple[int, int]


def memory_for_blocks(device: torch.device) -> int:
    """Bytes that blocks may take on `device`: what is free there or kept for reuse by torch, within reason."""
    if device.type != "cuda":
        return MOST
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(int(SHARE * (free + unused)), MOST)


def block_size(n: int, bytes_per_slice: int, budget: int) -> int:
    """Slices in a block: all, where they fit in `budget` bytes, else as many as fit twice; 1 to MOST_SLICES."""
    fitting = n if n * bytes_per_slice <= budget else budget // (2 * bytes_per_slice)
    return max(1, min(fitting, MOST_SLICES))


def square_matrix(n: int, diagonal: float, device: torch.device) -> torch.Tensor:
    """A float32 matrix (n, n) for the pairs, filled with its diagonal. Raises LimGpuError when it does not fit."""
    try:
        return torch.full((n, n), diagonal, dtype=torch.float32, device=device)
    except torch.OutOfMemoryError as error:
        raise LimGpuError(
            f"{device}: a matrix of {n} x {n} does not fit in its memory. Use another GPU, or --device cpu"
        ) from error


def over_pairs(
    n: int,
    block: int,
    prepare: Callable[[int, int], T],
    compare: Callable[[Block[T], Block[T]], None],
) -> None:
    """Call `compare` for blocks of at most `block` slices until every pair i < j of n slices was in one.

    `prepare(first, last)` makes what a block needs on the device. Out of memory halves the blocks still to come and
    goes on. Raises LimGpuError when not even single slices fit.
    """
    pending = list(_pieces(Pairs((0, n), (0, n)), block))
    rows: Block[T] | None = None
    while pending:
        pairs = pending[0]
        try:
            if rows is None or rows.first != pairs.rows[0]:
                rows = None  # frees the block before the next is made
                rows = Block(pairs.rows[0], prepare(*pairs.rows))
            compare(rows, rows if pairs.rows == pairs.columns else Block(pairs.columns[0], prepare(*pairs.columns)))
            del pending[0]
            continue
        except torch.OutOfMemoryError as error:
            cause = str(error).split(". ")[0]
        rows = None  # not in the handler: until its end the traceback holds what was allocated
        block = max(pairs.rows[1] - pairs.rows[0], pairs.columns[1] - pairs.columns[0]) // 2
        if block == 0:
            raise LimGpuError(f"out of memory for two slices ({cause}). Free memory on the GPU, or use --device cpu")
        pending = [piece for pairs in pending for piece in _pieces(pairs, block)]


def _pieces(pairs: Pairs, block: int) -> Iterator[Pairs]:
    """`pairs` in pieces of at most `block` x `block` slices, without those below the diagonal."""
    for rows in _ranges(pairs.rows, block):
        for columns in _ranges(pairs.columns, block):
            if columns[1] - 1 > rows[0]:
                yield Pairs(rows, columns)


def _ranges(bounds: tuple[int, int], block: int) -> list[tuple[int, int]]:
    first, last = bounds
    return [(start, min(start + block, last)) for start in range(first, last, block)]
