"""What sharing costs: `reduce` over Ray on this machine against one process, in CPU seconds of all processes.

Ray's own processes count too, its start does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import lim_gpu
from bench import inputs
from bench.parts import Row
from bench.test_reduce_speed import write_pixels
from lim_gpu.cluster import LOCAL, connect
from lim_gpu.store.slices import write_index

ROUNDS = 5
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


@pytest.mark.budget(90)
@pytest.mark.parametrize(
    ("method", "n", "units"), [("hash", 60, 60), ("hash", 240, 16), ("ssim", 60, 24), ("ssim", 240, 4)]
)
def test_reduce(method: str, n: int, units: int, ray: str, tmp_path: Path, record: Callable[[Row], None]) -> None:
    volume = inputs.volume(n, "cpu").numpy()[:, ::2, ::2].astype("int16") * 8 - 1024
    folder = tmp_path / "slices"
    write_index(folder, [write_pixels(folder / "volumes", i, volume + i) for i in range(units)], {}, {}, "bench")
    made = {}
    for peer, how in {"lim_gpu, one process": {}, "lim_gpu, Ray": {"ray": ray}}.items():
        seconds = []
        for number in range(1 + ROUNDS):  # the first loads what is compiled, in every process
            output = tmp_path / f"{len(made)}-{number}.csv"
            before = cpu_seconds()
            lim_gpu.reduce(folder, method, keep=0.1, device="cpu", output=output, **how)
            seconds.append(cpu_seconds() - before)
        made[peer] = output.read_bytes()
        job = f"reduce, {method.upper()}, {n} slices of 256 x 256, CPU of all processes"
        record(Row("peers", job, peer, "cpu", "unit", units, seconds[1:]))
    assert made["lim_gpu, Ray"] == made["lim_gpu, one process"]
