"""What sharing costs: `reduce` over Ray on this machine against one process, in CPU seconds.

Of Ray all its processes count, its start aside; of one process that process alone, so that what Ray does meanwhile is
no part of it. A run of few units and one of many tell what a unit costs, and what a run does beside its units. What
Ray's processes use while nothing is asked of them is a cost of a host and a second: rows have it, and lack it.
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

ROUNDS = 3
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


def write_store(folder: Path, n: int, few: int, many: int) -> dict[int, Path]:
    """Stores of as many volumes of n slices, which share their files."""
    volume = inputs.volume(n, "cpu").numpy()[:, ::2, ::2].astype("int16") * 8 - 1024
    stores = {units: folder / str(units) for units in (few, many)}
    entries = [write_pixels(stores[many] / "volumes", i, volume + i) for i in range(many)]
    stores[few].mkdir()
    (stores[few] / "volumes").symlink_to(stores[many] / "volumes")
    for units, store in stores.items():
        write_index(store, entries[:units], {}, {}, "bench")
    return stores


@pytest.mark.budget(120)
@pytest.mark.parametrize(
    ("method", "n", "few", "many"),
    [("hash", 60, 40, 160), ("hash", 240, 12, 48), ("ssim", 60, 8, 32), ("ssim", 240, 1, 4)],
)
def test_reduce(
    method: str,
    n: int,
    few: int,
    many: int,
    ray: str,
    all_threads: int,
    tmp_path: Path,
    record: Callable[[Row], None],
) -> None:
    stores = write_store(tmp_path, n, few, many)
    peers: dict[str, tuple[Callable[[], float], dict[str, Any]]] = {
        "one process": (time.process_time, {}),
        "Ray": (cpu_seconds, {"ray": ray, "cpus_per_task": all_threads}),
    }
    used: dict[tuple[str, int], list[tuple[float, float]]] = {}  # CPU seconds and seconds
    for number in range(1 + ROUNDS):  # in turns; the first loads what is compiled, in every process
        for units, store in stores.items():
            made = set()
            for peer, (clock, how) in peers.items():
                output = tmp_path / f"{number}-{units}-{len(how)}" / "s.csv"  # hashes beside it would be borrowed
                cpu, wall = clock(), time.perf_counter()
                lim_gpu.reduce(store, method, keep=0.1, device="cpu", output=output, **how)
                used.setdefault((peer, units), []).append((clock() - cpu, time.perf_counter() - wall))
                made.add(output.read_bytes())
            assert len(made) == 1
    idle = idle_use()
    print(f"\n{method} {n}: Ray, idle, {idle:.3f} CPU s a second")
    for name, peer, rate in (("one process", "one process", 0), ("Ray", "Ray", 0), ("Ray, idle aside", "Ray", idle)):
        some, whole = ([cpu - rate * wall for cpu, wall in used[peer, units][1:]] for units in (few, many))
        more = [b - a for a, b in zip(some, whole, strict=True)]
        beside = median(a - few * b / (many - few) for a, b in zip(some, more, strict=True))
        told = f"{1e3 * median(more) / (many - few):.1f} CPU ms a unit, {beside:.2f} CPU s a run beside it"
        print(f"{name}: {told}; {few} and {many} units: {used[peer, few]} {used[peer, many]}")
        job = f"reduce, {method.upper()}, {n} slices of 256 x 256, CPU of all processes"
        record(Row("peers", job, f"lim_gpu, {name}", "cpu", "unit", many - few, more))
