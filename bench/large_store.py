"""What the index of a store of many volumes, and a selection of it, cost to write and to open: no pixels are made.

    python -m bench.large_store 67309 260

A process a step. Memory is what it takes beyond what stood before, at its most; of a selection in memory 29 bytes a
slice do, before it is saved.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.selection import FORMAT, VERSION, Selection, VolumeSelection
from lim_gpu.selection.volume import Covering
from lim_gpu.store.slices import SliceStore, write_index
from lim_gpu.store.volume import VolumeEntry
from lim_gpu.temporary import temporary_folder

MB, PAGE = 1e6, resource.getpagesize()


def made_entries(volumes: int, slices: int) -> list[VolumeEntry]:
    """As those of CT whose identifiers are hashed; digests are not of anything."""
    named = [(f"{i:016x}", sha256(str(i // 2).encode()).hexdigest()) for i in range(volumes)]
    return [VolumeEntry(key, digest[:16], "", (slices, 512, 512), "int16", "CT", digest) for key, digest in named]


def made_selection(volumes: int, slices: int) -> Selection:
    """Each tenth slice stands for those around it; the record has a unit a volume."""
    place = np.arange(slices, dtype=np.int32)
    covering = Covering(("",), np.zeros_like(place), place // 10 * 10)
    own: list[VolumeSelection] = []
    for i in range(volumes):
        covered_by = Covering((f"{i:016x}",), covering.volume.copy(), covering.place.copy())
        similarity = np.random.default_rng(i).random(slices, np.float32)
        own.append(
            VolumeSelection(
                f"{i:016x}", place * 1.25, place % 10 == 0, place[::-1].astype(np.int64), covered_by, similarity
            )
        )
    units = [made_unit(volume.key, slices) for volume in own]
    store = {"path": "slices", "fingerprint": 64 * "0"}
    return Selection(tuple(own), {"format": FORMAT, "version": VERSION, "store": store, "units": units})


def made_unit(key: str, slices: int) -> dict[str, Any]:
    """As `lim_gpu.reduction.record` has it."""
    counts = {"slices": slices, "kept": -(-slices // 10), "resolved_threshold": 0.8712345361709595, "borderline": 0}
    return {"unit": key, "volumes": [key], **counts, "device": "cpu", "seconds": 0.1234}


def measured(what: str, prepare: Callable[[int, int, Path], Callable[[], object]], *arguments: Any) -> str:
    """In a process of its own: what a step costs that `prepare` gives, in words."""
    step = prepare(*arguments)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{what}: {cpu:.1f} CPU s, {wall:.1f} s, {(peak - before) / MB:.0f} MB"


def save_index(volumes: int, slices: int, folder: Path) -> Callable[[], object]:
    entries = made_entries(volumes, slices)
    return lambda: write_index(folder, entries, {}, {}, "bench")


def open_store(_volumes: int, _slices: int, folder: Path) -> Callable[[], object]:
    return lambda: SliceStore(folder)


def save_selection(volumes: int, slices: int, folder: Path) -> Callable[[], object]:
    selection = made_selection(volumes, slices)
    return lambda: selection.save(folder / "s.csv")


def load_selection(_volumes: int, _slices: int, folder: Path) -> Callable[[], object]:
    return lambda: Selection.load(folder / "s.csv")


def main() -> None:
    """Measure and print."""
    volumes, slices = map(int, sys.argv[1:])
    print(f"{volumes:,} volumes, {volumes * slices:,} slices", flush=True)
    with temporary_folder() as folder, ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for step in (save_index, open_store, save_selection, load_selection):
            name = step.__name__.replace("_", " ")
            print(processes.submit(measured, name, step, volumes, slices, folder).result(), flush=True)
        for file in sorted(folder.iterdir()):
            print(f"{file.name}: {file.stat().st_size / MB:.1f} MB")


if __name__ == "__main__":
    main()
