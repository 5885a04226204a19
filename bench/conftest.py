"""Benchmarks: check, then time, one thread a side, the same slices, in one run; a table of ratios at the end.

Every test times one peer at one job with `timed`. The table sets each job's peers against the library baseline, which
comes first.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom

ROUNDS = 5
LIBRARIES = ("numpy numba torch torchvision pillow scikit-image scipy ImageHash cupy-cuda12x cupy-cuda13x").split()


@dataclass(frozen=True)
class Row:
    """The median seconds that `peer` took for one `unit` of a job."""

    job: str
    unit: str
    peer: str
    seconds: float


ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def slices() -> np.ndarray:
    """40 slices (40, 512, 512) of a procedural chest CT, each mapped by its own minimum..maximum."""
    return Intensity.parse().to_uint8(phantom("chest", 40, 512, 512, seed=1))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """timed(job, unit, peer, function, count): time `function`, which does `count` units of the job."""

    def run(job: str, unit: str, peer: str, function: Callable[[], Any], count: int, rounds: int = ROUNDS) -> None:
        benchmark.group = job
        benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)
        row = Row(job, unit, peer, benchmark.stats.stats.median / count)
        request.config.stash.setdefault(ROWS, []).append(row)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # the table of ratios says it shorter; -v shows both


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None
    if not torch.cuda.is_available():
        reason = "no NVIDIA GPU"
    elif find_spec("cupy") is None:
        reason = "CuPy is not installed"
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("ratios")
    for line in (*_environment(), "", *_table(rows)):
        terminalreporter.write_line(line)


def _table(rows: list[Row]) -> list[str]:
    """A line for every peer: its time for a unit, and how often it fits into the time of the job's first peer."""
    lines = [f"{'job':<34} {'peer':<34} {'time':>16} {'ratio':>8}"]
    for job in dict.fromkeys(row.job for row in rows):
        peers = [row for row in rows if row.job == job]
        for row in peers:
            time = f"{row.seconds * 1e3:.4g} ms/{row.unit}"
            lines.append(f"{job:<34} {row.peer:<34} {time:>16} {peers[0].seconds / row.seconds:>7.1f}x")
    return lines


def _environment() -> list[str]:
    lines = [f"machine: {_processor()}, {platform.system()} {platform.release()}"]
    if torch.cuda.is_available():
        lines.append(f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    libraries = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    lines.append(f"versions: Python {platform.python_version()}, {', '.join(libraries)}")
    lines.append(f"commit: {_commit()}")
    return lines


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changes = " with changes" if git("status", "--porcelain") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changes
