"""What a reduction will cost, told before it starts and without loading torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.progress import counted
from lim_gpu.reduction.parts import load_part
from lim_gpu.reduction.reader import BLOCK_BYTES, READ_AHEAD
from lim_gpu.reduction.request import BASELINES, Request
from lim_gpu.reduction.unit import Unit

# Seconds a pair (ssim, mi) or a slice (deepnet, hash) of 512 x 512 takes one core of an AMD EPYC with AVX-512: what
# `pytest bench/` prints there, rounded up. Another machine differs; the estimate says where it comes from.
SECONDS = {"ssim": 0.25e-3, "mi": 0.18e-3, "deepnet": 0.08, "hash": 0.25e-3}
READING, PERCENTILES, BODY = 0.4e-3, 1e-3, 13e-3  # a slice: from the page cache; what the intensity asks for
REFERENCE_PIXELS = 512 * 512


@dataclass(frozen=True)
class Plan:
    """Units to do and done already, slices, pairs, bytes of host memory at the peak, seconds on this CPU."""

    volumes: int
    units: int
    done: int
    slices: int
    pairs: int
    memory: int
    seconds: float

    def lines(self, request: Request) -> list[str]:
        """For a person."""
        lines = [
            f"plan: {request.method}, {counted(self.volumes, 'volume')} in {counted(self.units, 'unit')} of scope "
            f"{request.scope}, {counted(self.slices, 'slice')}, {counted(self.pairs, 'pair')}",
            f"to do {self.units - self.done}, done already {self.done}",
            f"memory: about {self.memory / 2**30:.2f} GiB above the start",
        ]
        if request.method not in BASELINES:
            told = f"about {self.seconds:.0f} s" if self.seconds >= 1 else "under a second"
            rate = "from the rate of one core of an AMD EPYC; a GPU is much faster"
            lines.append(f"time: {told} on {os.cpu_count()} CPU cores, {rate}")
        return lines

    def values(self) -> dict[str, Any]:
        """For a program."""
        return {"dry_run": True} | vars(self)


def make_plan(units: Sequence[Unit], request: Request, parts: Path) -> Plan:
    """The plan of reducing `units`, those with a whole result under `parts` counted as done."""
    to_do = [unit for unit in units if load_part(parts, unit.name, unit.fingerprint(request)) is None]
    return Plan(
        volumes=sum(len(unit.volumes) for unit in units),
        units=len(units),
        done=len(units) - len(to_do),
        slices=sum(unit.slices for unit in units),
        pairs=sum(unit.pairs(request.method) for unit in units),
        memory=max((_memory(unit, request.method) for unit in to_do), default=0) + _read_ahead(to_do, request.method),
        seconds=sum(_seconds(unit, request) for unit in to_do),
    )


def _memory(unit: Unit, method: str) -> int:
    """Peak of one unit on the CPU: pixels, fields, the matrix, and the 40 bytes a pair that ranking it takes."""
    if method in BASELINES:
        return 0
    pixels = _pixels(unit)
    matrix = unit.slices**2 * (4 + 20)
    return {
        "ssim": 9 * pixels + matrix,
        "mi": 2 * pixels + matrix,
        "deepnet": 4 * BLOCK_BYTES + matrix,
        "hash": 2 * BLOCK_BYTES + 64 * unit.slices,
    }[method]


def _read_ahead(units: Sequence[Unit], method: str) -> int:
    """Bytes of the volumes that are read while others are compared."""
    return 0 if method in BASELINES else min(READ_AHEAD, sum(_pixels(unit) for unit in units))


def _pixels(unit: Unit) -> int:
    return sum(n * height * width for n, height, width in (entry.shape for entry in unit.volumes))


def _seconds(unit: Unit, request: Request) -> float:
    method = request.method
    if method in BASELINES:
        return 0.0
    intensity = request.criterion.intensity
    each = READING + BODY * intensity.body + PERCENTILES * (intensity.percentiles is not None)
    pixels = _pixels(unit) / REFERENCE_PIXELS
    size = pixels / max(unit.slices, 1)
    work = SECONDS[method] * (size * unit.pairs(method) if method in ("ssim", "mi") else unit.slices)
    return (work + each * pixels) / (os.cpu_count() or 1)
