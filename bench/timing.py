"""How long a function takes: the wall clock on the CPU, CUDA events and an emptied L2 cache on the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from math import ceil
from typing import Any

import torch

LEAST = 3  # rounds, unless one alone takes the whole budget
SHORT = 1e-3  # s: what takes less on a GPU is called many times in a row, since launching alone takes the host 20 µs
FLUSH_BYTES = 256 << 20  # more than any L2 cache holds


def seconds_of(
    function: Callable[[], Any], device: str, rounds: int, budget: float, warm_up: Callable[[], Any] | None = None
) -> tuple[list[float], int | None]:
    """Seconds of each of at most `rounds` calls after one that warms up; and bytes of GPU memory in use at the most.

    Stops when `budget` seconds are spent, but not before LEAST rounds, unless a single one spends them: then one is the
    answer. `warm_up` stands for the first call where that would be long.

    On a GPU a round of less than SHORT is not counted, but repeated with as many calls as fill it.
    """
    spent = longest = once(warm_up or function, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    calls = 1
    times: list[float] = []
    while len(times) < rounds and (spent < budget or len(times) < (LEAST if longest < budget else 1)):
        each = once(function, device, calls)
        spent += calls * each
        longest = max(longest, calls * each)
        if device == "cuda" and calls * each < SHORT:
            calls = ceil(2 * SHORT / each)
        else:
            times.append(each)
    return times, torch.cuda.max_memory_allocated() - FLUSH_BYTES if device == "cuda" else None


def once(function: Callable[[], Any], device: str, calls: int = 1) -> float:
    """Seconds of one call; on a GPU the mean of `calls` in a row, the L2 cache emptied before the first."""
    return _on_gpu(function, calls) if device == "cuda" else _on_cpu(function)


def _on_cpu(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _on_gpu(function: Callable[[], Any], calls: int) -> float:
    """Between two events on the current stream, so that what a method does on the host between its kernels counts."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _flush_buffer().zero_()
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


@cache
def _flush_buffer() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
