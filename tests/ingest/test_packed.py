"""Millions of files wait as compressed bytes, and come out as they went in."""

from __future__ import annotations

import pickle
import random
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from lim_gpu.ingest import assemble, pictures, volume_plan
from lim_gpu.ingest import scan as scan_module
from lim_gpu.ingest.assemble import plan_volumes
from lim_gpu.ingest.packed import Packed, PackedList
from lim_gpu.ingest.pictures import picture_plans
from lim_gpu.ingest.records import (
    Found,
    Frame,
    Instance,
    Picture,
    PixelFormat,
    Rescale,
    Scanned,
    SeriesId,
    StoredPixels,
)
from lim_gpu.ingest.scan import CHUNK, read_headers, walk
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.splits import SPLITS
from lim_gpu.ingest.volume_plan import Keys
from lim_gpu.workers import TaskResult

SIZE = 250  # of a series
RANDOM = random.Random(0)
HOW = PixelFormat("1.2.840.10008.1.2.1", 1, 512, 512, 16, 16, True, "MONOCHROME2", "OW", "CT", ((-2000, -2000),))
TO_HU = Rescale(1.0, -1024.0)
ROOT = "1.3.6.1.4.1.14519.5.2.1.6279.6001"


def test_what_is_packed_comes_out_in_order_and_pickles():
    items = [("a", i) for i in range(10)]
    packed = pickle.loads(pickle.dumps(Packed(items)))
    assert (list(packed), len(packed), packed[3], packed[2:4]) == (items, 10, items[3], tuple(items[2:4]))
    growing = PackedList(4, items)
    assert (list(growing), len(growing), [len(part) for part in growing.parts]) == (items, 10, [4, 4])
    growing.pack()
    growing.pack()
    growing.append(("b", 0))
    assert list(growing) == [*items, ("b", 0)]


def found(order: int) -> Found:
    series, i = divmod(order, SIZE)
    name = f"LIDC-IDRI-{series:04d}/{ROOT}.{series:029d}/1-{i:03d}.dcm"
    return Found(f"/data/{name}", name, order, 526_000 + 2 * RANDOM.randrange(900), RANDOM.randrange(10**18))


def scanned(file: Found) -> Scanned:
    """A slice as those of the LIDC are: numbers of 30 digits, a position along the normal."""
    series, i = divmod(file.order, SIZE)
    who = SeriesId(f"LIDC-IDRI-{series:04d}", f"{ROOT}.1{series:028d}", f"{ROOT}.{series:029d}")
    sop = f"{ROOT}.{RANDOM.randrange(10**29, 10**30)}"
    pixels = StoredPixels(2000 + RANDOM.randrange(99), 1 << 19, HOW)
    instance = Instance(file, who, sop, pixels, False, False, "Explicit VR Little Endian", "", i + 1, frozenset())
    where = ((-166.0, -171.5, 1.25 * i - 300), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.703125, 0.703125), 1.25)
    return Scanned(file, (Frame(instance, 0, *where, TO_HU, ("",) * len(SPLITS)),))


def scan(content, function, tasks, **_limits):
    """In place of child processes; what they send is a copy."""
    for number in range(len(tasks)):
        yield TaskResult(number, pickle.loads(pickle.dumps([content(file) for file in tasks[number][0]])))


def picture(file: Found) -> Scanned:
    return Scanned(file, Picture(file, 512, 512, True, False))


def plan(n, content=scanned):
    files = PackedList(CHUNK, map(found, range(n)))
    headers = read_headers(files, "CT", False, 1, lambda _: None, partial(scan, content))
    return Keys(None).complete(plan_volumes(headers, Settings(Path("s")), lambda _: {}).volumes, {})


def most_bytes(function, *arguments):
    """What `function` gives, and the most that was allocated until then."""
    tracemalloc.start()
    try:
        return function(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [scanned, picture])
def test_planning_a_million_slices_more_takes_less_than_100_mb_more(monkeypatch, content):
    """Told of 2,500 and of 7,500, a file each: some are held as objects, whatever their number."""
    monkeypatch.setattr(assemble, "GROUP", SIZE)
    monkeypatch.setattr(pictures, "LOOSE", SIZE)
    (few, before), (many, after) = (most_bytes(plan, n, content) for n in (2500, 7500))
    assert [len(one.slices) for one in few + many] == [SIZE] * 40
    assert after - before < 100 * 5000
    assert many[1].slices[2].path.endswith(f"{1:029d}/1-002.dcm")


def test_a_million_files_more_of_one_folder_take_less_than_100_mb_more(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "RUN", SIZE)
    most = []
    for first, last in ((0, 1000), (1000, 4000)):
        for number in range(first, last):
            (tmp_path / f"{ROOT}.{number}.dcm").touch()
        walked, bytes_ = most_bytes(walk, [tmp_path], [])
        most.append(bytes_)
        assert [found.path for found in walked.files] == [f"{tmp_path}/{ROOT}.{i}.dcm" for i in range(last)]
    assert most[1] - most[0] < 100 * 3000


def test_more_pictures_than_a_volume_may_have_are_refused_before_any_is_decoded(monkeypatch):
    monkeypatch.setattr(volume_plan, "MAX_SLICES", 3)
    files = [
        Found(f"/in/{name}/{i}.png", f"in/{name}/{i}.png", i, 1, 1) for name in "ab" for i in range(3 + (name == "b"))
    ]
    plans, [(first, error)] = picture_plans([Picture(file, 8, 8, False, False) for file in files], None)
    assert [plan.name for plan in plans] == ["in/a"]
    assert first.path == "/in/b/0.png"
    assert "at most 3 slices" in str(error)


@pytest.mark.parametrize("content", [scanned, picture])
def test_groups_change_nothing(monkeypatch, content):
    RANDOM.seed(0)
    whole = plan(2000, content)
    monkeypatch.setattr(assemble, "GROUP", 100)
    monkeypatch.setattr(pictures, "LOOSE", 100)
    RANDOM.seed(0)
    assert [one.unpacked() for one in plan(2000, content)] == [one.unpacked() for one in whole]
