"""What sharing costs: `reduce` over Ray on this machine against one process, in CPU seconds of all processes.

Ray's own processes count too, its start does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
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


@pytest.mark.budget(90)
@pytest.mark.parametrize(
    ("method", "n", "units"), [("hash", 60, 60), ("hash", 240, 48), ("ssim", 60, 24), ("ssim", 240, 4)]
)
def test_reduce(
    method: str, n: int, units: int, ray: str, all_threads: int, tmp_path: Path, record: Callable[[Row], None]
) -> None:
    volume = inputs.volume(n, "cpu").numpy()[:, ::2, ::2].astype("int16") * 8 - 1024
    folder = tmp_path / "slices"
    write_index(folder, [write_pixels(folder / "volumes", i, volume + i) for i in range(units)], {}, {}, "bench")
    peers: dict[str, dict[str, Any]] = {
        "lim_gpu, one process": {},
        "lim_gpu, Ray": {"ray": ray, "cpus_per_task": all_threads},
    }
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    made = set()
    for number in range(1 + ROUNDS):  # in turns; the first loads what is compiled, in every process
        for peer, how in peers.items():
            output = tmp_path / f"{number}-{len(how)}" / "s.csv"  # hashes beside it would be borrowed
            before = cpu_seconds()
            lim_gpu.reduce(folder, method, keep=0.1, device="cpu", output=output, **how)
            seconds[peer].append(cpu_seconds() - before)
            made.add(output.read_bytes())
    assert len(made) == 1
    job = f"reduce, {method.upper()}, {n} slices of 256 x 256, CPU of all processes"
    for peer in peers:
        record(Row("peers", job, peer, "cpu", "unit", units, seconds[peer][1:]))
