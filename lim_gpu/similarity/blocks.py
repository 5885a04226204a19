"""What the CPU paths share: threads, and blocks of slice pairs.

Work is spread by Python threads over functions that release the GIL, not by Numba's own parallel loops: those abort the
process when two Python threads use them at once (the workqueue layer), and take seconds to compile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from lim_gpu.compiled import compiled

ALIGNMENT = 64  # bytes, a cache line: an AVX-512 load that crosses two costs double
SHARES = 4  # of the work a thread: unequal shares even out, and Ctrl-C waits for one share only


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that begin at a cache line."""
    count = math.prod(shape)
    memory = np.zeros(count * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : memory.size - ALIGNMENT + start].view(dtype).reshape(shape)


@compiled()
def scratch(rows, columns, like):  # type: ignore[no-untyped-def]
    """Within compiled code: an uninitialised (rows, columns) array of the type of `like`, beginning at a cache line."""
    memory = np.empty(rows * columns + ALIGNMENT // like.itemsize, like.dtype)
    start = (-memory.ctypes.data % ALIGNMENT) // like.itemsize
    return memory[start : start + rows * columns].reshape(rows, columns)


def thread_count() -> int:
    """Threads to use: torch's setting (OMP_NUM_THREADS, torch.set_num_threads), at most NUMBA_NUM_THREADS.

    numba.get_num_threads is not asked: it starts Numba's own pool, which resets torch's setting where both use OpenMP.
    """
    import torch

    limit: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return max(1, min(torch.get_num_threads(), limit))


def pair_blocks(n: int, size: int) -> NDArray[np.int64]:
    """Corners (i, j) of the blocks of `size` x `size` pairs that cover the upper triangle of n x n, (blocks, 2)."""
    return np.stack(np.triu_indices(-(-n // size)), axis=1) * size


def symmetric(upper: NDArray[np.float64], low: float, high: float, diagonal: float) -> NDArray[np.float32]:
    """The float32 (n, n) matrix of a strictly upper triangle, clamped, its diagonal set by definition."""
    matrix = upper.astype(np.float32)
    matrix += matrix.T.copy()
    np.clip(matrix, low, high, out=matrix)
    np.fill_diagonal(matrix, diagonal)
    return matrix


class Threads:
    """A pool that runs one function over shares of the work. The results do not depend on how the work is shared."""

    def __init__(self, count: int | None = None) -> None:
        self.count = thread_count() if count is None else count
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., Any], items: Sequence[Any] | NDArray[Any], *arguments: Any) -> None:
        """Call `function(share, *arguments)` for shares of `items` and wait for all."""
        shares = min(len(items), SHARES * self.count)
        bounds = np.linspace(0, len(items), shares + 1).astype(int)
        parts = [items[a:b] for a, b in pairwise(bounds)]
        self.map(lambda part: function(part, *arguments), parts)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """The results of `function` for each of `items`, in order."""
        return list((self._pool.map if self._pool else map)(function, items))
