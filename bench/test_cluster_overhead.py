"""What sharing costs: `reduce` over Ray on this machine against one process, in CPU seconds.

Of Ray all its processes count, its start aside; of one process that process alone, so that what Ray does meanwhile is
no part of it. A run of few units and one of many tell what a unit costs, and what a run does beside its units.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
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
from lim_gpu.cluster import LOCAL, connect
from lim_gpu.store.slices import write_index

ROUNDS = 3
IDLE = 5.0  # seconds: what Ray does meanwhile
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with connect(LOCAL):
        before = cpu_seconds()
        time.sleep(IDLE)
        print(f"\nRay, idle: {(cpu_seconds() - before) / IDLE:.3f} CPU s a second")
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
    [("hash", 60, 40, 160), ("hash", 240, 12, 48), ("ssim", 60, 8, 32), ("ssim", 240, 1, 5)],
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
        "lim_gpu, one process": (time.process_time, {}),
        "lim_gpu, Ray": (cpu_seconds, {"ray": ray, "cpus_per_task": all_threads}),
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(1 + ROUNDS):  # in turns; the first loads what is compiled, in every process
        for units, store in stores.items():
            made = set()
            for peer, (clock, how) in peers.items():
                output = tmp_path / f"{number}-{units}-{len(how)}" / "s.csv"  # hashes beside it would be borrowed
                before, start = clock(), time.perf_counter()
                lim_gpu.reduce(store, method, keep=0.1, device="cpu", output=output, **how)
                seconds.setdefault((peer, units), []).append(clock() - before)
                wall = time.perf_counter() - start
                print(f"{peer}, {units} units: {seconds[peer, units][-1]:.2f} CPU s, {wall:.2f} s")
                made.add(output.read_bytes())
            assert len(made) == 1
    what = f"reduce, {method.upper()}, {n} slices of 256 x 256, CPU of all processes"
    for peer in peers:
        runs = zip(seconds[peer, few][1:], seconds[peer, many][1:], strict=True)
        more = [whole - some for some, whole in runs]
        record(Row("peers", what, peer, "cpu", "unit", many - few, more))
        beside = [some - few * each / (many - few) for some, each in zip(seconds[peer, few][1:], more, strict=True)]
        print(
            f"{peer}: {1e3 * median(more) / (many - few):.1f} CPU ms a unit, {median(beside):.2f} CPU s a run beside it"
        )
