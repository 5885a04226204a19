"""What each unit of this very GPU does at the most: ceilings.cu for the arithmetic, copies for the memory and the bus.

The shares of the limit in RESULTS.md are shares of these, not of a data sheet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from lim_gpu.cuda.module import HEADER, CudaModule, Module

BLOCKS_PER_SM = 8
ROUNDS = 1 << 14
COPY_BYTES = 1 << 30
WORD = 0x0123456789ABCDEF


@dataclass(frozen=True)
class Ceiling:
    """A resource and the loop that uses it up.

    Its kernel does `operations` a round of all threads of a block; `foretold(rounds)` is each thread's result.
    """

    resource: str
    kernel: str
    operations: Callable[[dict[str, int]], int]
    foretold: Callable[[int, dict[str, int]], float]
    arguments: dict[str, Any]


def _popcounts(rounds: int, constants: dict[str, int]) -> int:
    return sum((WORD ^ k << 32 ^ k).bit_count() for k in range(rounds * constants["CHAINS"]))


def _one_each(rounds: int, constants: dict[str, int]) -> int:
    return rounds * constants["CHAINS"]


def _per_thread(constants: dict[str, int]) -> int:
    return constants["CHAINS"] * constants["THREADS"]


def _mma(k: int) -> dict[str, Callable[..., int]]:
    """A warp's product of 16 x k and k x 8 is 16 * 8 * k multiply-adds; the four sums of a thread grow by k in each."""
    return {
        "operations": lambda own: own["CHAINS"] * own["THREADS"] // 32 * 16 * 8 * k,
        "foretold": lambda rounds, own: rounds * own["CHAINS"] * 4 * k,
    }


LOOPS = (
    Ceiling("fp32 instructions", "ceiling_fma", _per_thread, _one_each, {"factor": 1.0, "addend": 1.0}),
    Ceiling("shared-memory atomics", "ceiling_atomics", _per_thread, _one_each, {}),
    Ceiling("64-bit popcounts", "ceiling_popcount", _per_thread, _popcounts, {"word": WORD}),
    Ceiling("int8 mma multiply-adds", "ceiling_mma_int8", arguments={"ones": 0x01010101}, **_mma(32)),
    Ceiling("fp16 mma multiply-adds", "ceiling_mma_fp16", arguments={"ones": 0x3C003C00}, **_mma(16)),
)


def text() -> str:
    """ceilings.cu behind the header of the kernels."""
    own = Path(__file__).with_name("ceilings.cu").read_text(encoding="utf-8")
    header = resources.files("lim_gpu.kernels").joinpath(HEADER).read_text(encoding="utf-8")
    return f'#line 1 "{HEADER}"\n{header}\n#line 1 "ceilings.cu"\n{own}\n'


@cache
def module() -> Module:
    import cupy

    return CudaModule("ceilings", cupy, text())


def loop(ceiling: Ceiling, kernels: Module, device: str, blocks: int, rounds: int) -> tuple[Callable[[], None], int]:
    """The loop, checked, and how many operations it does."""
    parameters = {parameter.name: parameter for parameter in kernels.signatures[ceiling.kernel].parameters}
    dtype = {"float": torch.float32, "i64": torch.int64}.get(parameters["out"].type, torch.int32)
    threads = kernels.constants["THREADS"]
    out = torch.zeros(blocks * threads, dtype=dtype, device=device)
    run = partial(kernels.launch, ceiling.kernel, blocks, threads, out=out, rounds=rounds, **ceiling.arguments)
    run()
    expected = ceiling.foretold(rounds, kernels.constants)
    assert bool((out == expected).all()), f"{ceiling.kernel}: {out[0].item()}, not {expected}"
    return run, ceiling.operations(kernels.constants) * blocks * rounds


def copies(device: str, size: int = COPY_BYTES) -> dict[str, tuple[Callable[[], Any], int]]:
    """resource -> a copy and its bytes, read and written, within the device's memory and to it from pinned memory."""
    here = torch.ones(size, dtype=torch.uint8, device=device)
    there = torch.zeros_like(here)
    host = torch.ones(size, dtype=torch.uint8, pin_memory=device == "cuda")
    return {"bytes": (lambda: there.copy_(here), 2 * size), "bytes over the bus": (lambda: here.copy_(host), size)}
