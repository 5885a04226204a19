"""What sharing costs: `reduce` over Ray on this machine against one process, in CPU seconds.

Of Ray all its processes count, its start aside; of one process that process alone, so that what Ray does meanwhile is
no part of it. What Ray's processes use while nothing is asked of them is a cost of a host and a second: rows have it,
and lack it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

import lim_gpu
from bench import inputs
from bench.parts import Row
from bench.test_reduce_speed import write_pixels
from lim_gpu.cluster import LOCAL, connect, run_batches
from lim_gpu.store.slices import write_index
from lim_gpu.workers import TaskResult

ROUNDS = 6  # either side goes first in half of them: the second finds a warmer machine
IDLE = 10.0  # seconds
TASKS, SENT = 1000, 12_000  # bytes
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with connect(LOCAL):
        yield LOCAL


def cpu_seconds() -> float:
    """Of this process and of all that descend from it, those that have ended included."""
    parent, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parent[int(folder.name)], used[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    own = {os.getpid()}
    while more := {pid for pid, above in parent.items() if above in own} - own:
        own |= more
    return sum(used[pid] for pid in own) / TICKS


@pytest.fixture
def all_threads() -> Iterator[int]:
    """One process at a time on either side: two share caches, and then cost more."""
    threads = os.cpu_count() or 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield threads
    torch.set_num_threads(before)


def idle_use() -> float:
    """CPU seconds a second of this process and Ray's, when nothing is asked of them."""
    before = cpu_seconds()
    time.sleep(IDLE)
    return (cpu_seconds() - before) / IDLE


def nothing(batch: Sequence[int]) -> Iterator[TaskResult]:
    """Tasks without work, each of which sends as much as a unit of 60 slices."""
    for place in range(len(batch)):
        yield TaskResult(place, bytes(SENT))


def test_sharing_alone(ray: str, all_threads: int, record: Callable[[Row], None]) -> None:
    used: dict[int, list[tuple[float, float]]] = {1: [], TASKS: []}
    for _ in range(1 + ROUNDS):
        for count, runs in used.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            assert len(list(run_batches(nothing, range(count), cpus=all_threads))) == count
            runs.append((cpu_seconds() - cpu, time.perf_counter() - wall))
    idle = idle_use()
    print(f"\nRay, idle: {idle:.3f} CPU s a second; {used}")
    for name, rate in (("Ray", 0), ("Ray, idle aside", idle)):
        once, all_of_them = ([cpu - rate * wall for cpu, wall in used[count][1:]] for count in used)
        more = [b - a for a, b in zip(once, all_of_them, strict=True)]
        print(
            f"{name}: {1e3 * median(more) / (TASKS - 1):.2f} CPU ms a task, {median(once):.2f} CPU s of one task alone"
        )
        record(Row("peers", "Sharing alone, tasks without work", f"lim_gpu, {name}", "cpu", "task", TASKS - 1, more))


def write_store(folder: Path, n: int, units: int) -> Path:
    """A store of as many volumes of n slices."""
    volume = inputs.volume(n, "cpu").numpy()[:, ::2, ::2].astype("int16") * 8 - 1024
    entries = [write_pixels(folder / "volumes", i, volume + i) for i in range(units)]
    write_index(folder, entries, {}, {}, "bench")
    return folder


@pytest.mark.budget(120)
@pytest.mark.parametrize(
    ("method", "n", "units"), [("hash", 60, 160), ("hash", 240, 96), ("ssim", 60, 32), ("ssim", 240, 4)]
)
def test_reduce(
    method: str, n: int, units: int, ray: str, all_threads: int, tmp_path: Path, record: Callable[[Row], None]
) -> None:
    store = write_store(tmp_path / "store", n, units)
    peers: dict[str, tuple[Callable[[], float], dict[str, Any]]] = {
        "one process": (time.process_time, {}),
        "Ray": (cpu_seconds, {"ray": ray, "cpus_per_task": all_threads}),
    }
    used: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}  # CPU seconds and seconds
    for number in range(1 + ROUNDS):  # the first loads what is compiled, in every process
        made = set()
        for peer in sorted(peers, reverse=number % 2 == 0):
            clock, how = peers[peer]
            output = tmp_path / f"{number}-{len(how)}" / "s.csv"  # hashes beside it would be borrowed
            cpu, wall = clock(), time.perf_counter()
            lim_gpu.reduce(store, method, keep=0.1, device="cpu", output=output, **how)
            used[peer].append((clock() - cpu, time.perf_counter() - wall))
            made.add(output.read_bytes())
        assert len(made) == 1
    idle = idle_use()
    print(f"\n{method} {n}: Ray, idle, {idle:.3f} CPU s a second")
    for name, peer, rate in (("one process", "one process", 0), ("Ray", "Ray", 0), ("Ray, idle aside", "Ray", idle)):
        whole = [cpu - rate * wall for cpu, wall in used[peer][1:]]
        print(
            f"{name}: {1e3 * median(whole) / units:.1f} CPU ms a unit; {[round(1e3 * cpu / units, 1) for cpu in whole]}"
        )
        job = f"reduce, {method.upper()}, {n} slices of 256 x 256, CPU of all processes"
        record(Row("peers", job, f"lim_gpu, {name}", "cpu", "unit", units, whole))
