"""Running again, going on after a kill, refusing another store; sources and strangers' files are never touched."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel")

import nibabel as nib

from dicom_files import ct, save, series, stored_slice
from lim_gpu import files
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.ingest import convert_all, ingest
from lim_gpu.store import slices as store_module
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore
from lim_gpu.workers import TaskResult

ENDED = 4_194_305  # one more than Linux gives to a process


def make_sources(folder: Path, volumes: int = 2, slices: int = 3) -> Path:
    for number in range(volumes):
        series(folder / f"ct{number}", slices, series=f"s{number}", patient=f"p{number}")
        image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3) + number, np.eye(4))
        nib.save(image, folder / f"nifti{number}.nii.gz")
        for i in range(slices):
            (folder / "png").mkdir(exist_ok=True)
            Image.fromarray(stored_slice(i).astype(np.uint8)).save(folder / "png" / f"v{number}_{i}.png")
    return folder


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [*sorted(folder.rglob("*.h5")), folder / "store.json"]}


def test_the_same_call_again_changes_nothing(tmp_path):
    sources, store = make_sources(tmp_path / "in"), tmp_path / "out"
    first = ingest([sources], store, workers=2)
    before, stamps, origin = state(tmp_path), times(store), state(sources)
    again = ingest([sources], store, workers=1)
    assert (first.written, first.reused, first.unchanged) == (6, 0, False)
    assert (again.written, again.reused, again.unchanged) == (0, 6, True)
    assert (state(tmp_path), times(store), state(sources)) == (before, stamps, origin)
    assert again.lines() == [f"unchanged: {store}, 6 volumes, 18 slices"]


def test_another_store_is_refused_and_with_overwrite_equal_volumes_stay(tmp_path):
    sources, store = make_sources(tmp_path / "in"), tmp_path / "out"
    ingest([sources], store, workers=1)
    (store / "notes.txt").write_text("mine")
    before = state(store)
    series(sources / "new", 2, series="new")
    for options in ({}, {"modality": "any"}, {"keep_identifiers": True}, {"assume_hu": True}):
        with pytest.raises(UsageError, match="holds a store of other sources or options. Give --overwrite"):
            ingest([sources], store, workers=1, **options)
    assert state(store) == before
    report = ingest([sources], store, workers=1, overwrite=True)
    assert (report.written, report.reused) == (1, 6)
    after = state(store)
    assert {name: after[name] for name in before if name != "store.json"} == {
        name: digest for name, digest in before.items() if name != "store.json"
    }


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}'])
def test_an_index_that_cannot_be_read_needs_overwrite(tmp_path, text):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    ingest([sources], store, workers=1)
    (store / "store.json").write_text(text)
    with pytest.raises(UsageError, match="Give --overwrite to make it anew"):
        ingest([sources], store, workers=1)
    assert ingest([sources], store, workers=1, overwrite=True).reused == 3


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lz4"])
def test_compressed_stores_hold_the_same(tmp_path, compression):
    sources = make_sources(tmp_path / "in", 1)
    ingest([sources], tmp_path / "plain", workers=1, keep_identifiers=True)
    ingest([sources], tmp_path / "packed", workers=1, keep_identifiers=True, compression=compression)
    with SliceStore(tmp_path / "plain") as plain, SliceStore(tmp_path / "packed") as packed:
        for a, b in zip(plain, packed, strict=True):
            np.testing.assert_array_equal(a.read(), b.read())
        assert packed.parameters["compression"] == compression


def test_a_touched_source_is_read_again(tmp_path):
    sources, store = make_sources(tmp_path / "in"), tmp_path / "out"
    ingest([sources], store, workers=1)
    save(ct(stored_slice(99), z=0.0, series="s0", patient="p0"), sources / "ct0" / "slice3.dcm")
    report = ingest([sources], store, workers=1, overwrite=True)
    assert (report.written, report.reused) == (1, 5)
    with SliceStore(store) as volumes:
        np.testing.assert_array_equal(volumes[0].read_slice(0), stored_slice(99))


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "sources"])
def test_what_does_not_stand_well_is_made_again(tmp_path, damage):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    ingest([sources], store, workers=1, keep_identifiers=True)
    before = state(tmp_path)
    path = sorted((store / "volumes").glob("*.h5"))[0]
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        path.write_bytes(b"somebody else's")
    else:
        (tmp_path / "out.private" / "sources" / f"{path.stem}.jsonl").unlink()
    report = ingest([sources], store, workers=1, keep_identifiers=True)
    assert (report.written, report.reused) == (1, 2)
    assert state(tmp_path) == before


def test_a_moved_source_tree_is_still_the_same(tmp_path):
    sources, store = make_sources(tmp_path / "a" / "data"), tmp_path / "out"
    ingest([sources], store, workers=1)
    shutil.move(tmp_path / "a", tmp_path / "b")
    report = ingest([tmp_path / "b" / "data"], store, workers=1)
    assert report.unchanged


def test_a_dry_run_writes_nothing_and_says_what_would_be(tmp_path):
    sources = make_sources(tmp_path / "in")
    before = state(tmp_path)
    report = ingest([sources], tmp_path / "out", workers=1, dry_run=True)
    assert state(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert [shape for _, shape in report.planned] == [(3, 40, 36)] * 2 + [(3, 4, 5)] * 2 + [(3, 40, 36)] * 2
    assert report.lines()[0] == f"plan: {sources}/ct0 (3 x 40 x 36)"
    assert report.lines()[-1] == f"plan: 6 volumes, 18 slices -> {tmp_path / 'out'}"
    assert report.values()["planned"][0] == {"source": f"{sources}/ct0 (3 x 40 x 36)", "shape": [3, 40, 36]}


def test_two_runs_at_once_are_refused(tmp_path):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    store.mkdir()
    with open(store / ".lock", "w") as handle:
        files._lock(handle)
        with pytest.raises(LimGpuError, match="another run is writing here"):
            ingest([sources], store, workers=1)


def test_stale_temporary_files_go_and_nothing_else(tmp_path):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    (store / "volumes").mkdir(parents=True)
    (tmp_path / "out.private" / "sources").mkdir(parents=True)
    key = "0123456789abcdef"
    left = [
        f"out/volumes/.{key}.h5.{ENDED}.tmp",
        f"out/.store.json.{ENDED}.tmp",
        f"out.private/sources/.{key}.jsonl.{ENDED}.tmp",
    ]
    mine = ["out/volumes/mine.h5", "out/volumes/.mine.tmp", f"out/.notes.{ENDED}.tmp"]
    for name in left + mine:
        (tmp_path / name).write_text("text")
    ingest([sources], store, workers=1)
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).read_text() == "text" for name in mine)


def test_one_crashed_child_costs_one_volume(tmp_path, monkeypatch):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    real = convert_all.run_in_children

    def crashing(function, tasks, **options):
        for outcome in real(function, tasks, **options):
            dead = tasks[outcome.task][0].kind == "nifti"
            yield TaskResult(outcome.task, error="the child process crashed (SIGSEGV)") if dead else outcome

    monkeypatch.setattr(convert_all, "run_in_children", crashing)
    report = ingest([sources], store, workers=1)
    assert report.written == 2
    assert [str(f) for f in report.failures] == [
        f"{sources}/nifti0.nii.gz: the child process crashed (SIGSEGV) (at a volume of 3 slices)"
    ]


def test_a_full_disk_stops_cleanly(tmp_path, monkeypatch):
    sources, store = make_sources(tmp_path / "in", 1), tmp_path / "out"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert_all.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(LimGpuError, match="needs 0 MiB, 0 MiB are free. Free some space"):
        ingest([sources], store, workers=1)
    monkeypatch.setattr(convert_all, "_check_space", lambda *_: None)
    real = convert_all.run_in_children

    def full(function, tasks, **options):
        list(real(function, tasks, **options))
        full_disk = "x.h5: cannot be written: No space left on device. Free some disk space and run again"
        yield TaskResult(0, error=full_disk)

    monkeypatch.setattr(convert_all, "run_in_children", full)
    with pytest.raises(LimGpuError, match="No space left on device"):
        ingest([sources], store, workers=1)
    assert not (store / "store.json").exists()
    monkeypatch.undo()
    assert ingest([sources], store, workers=1).reused == 3


def test_more_volumes_than_an_index_holds_are_refused_before_one_is_made(tmp_path, monkeypatch):
    sources = make_sources(tmp_path / "in")
    monkeypatch.setattr(store_module, "MOST_VOLUMES", 5)
    for dry_run in (True, False):
        with pytest.raises(LimGpuError, match=r"store: 6 volumes, and an index holds 5\. Ingest parts of the sources"):
            ingest(sources, tmp_path / "store", dry_run=dry_run)
    assert not list((tmp_path / "store").glob("volumes/*"))
    monkeypatch.setattr(store_module, "MOST_VOLUMES", 6)
    assert ingest(sources, tmp_path / "store").written == 6


def test_a_store_without_volumes_is_never_written(tmp_path):
    path = save(ct(stored_slice(1)), tmp_path / "in" / "a", "1.2.840.10008.1.2.5")
    data = path.read_bytes()
    path.write_bytes(data[:-1200] + b"\x07" * 1192 + data[-8:])
    with pytest.raises(InputError, match="no volume could be read, 1 failed"):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "store.json").exists()


def files_in(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


PROGRAM = "import sys; from lim_gpu.ingest import ingest; ingest([sys.argv[1]], sys.argv[2], workers=2)"


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, preloaded):
    """kill -9 of the whole process group when a random number of files is there."""
    sources = make_sources(tmp_path / "in", 3, 6)
    key = tmp_path / "out.private" / "key"
    ingest([sources], tmp_path / "whole", workers=1)
    key.parent.mkdir(mode=0o700)
    shutil.copy(tmp_path / "whole.private" / "key", key)
    origin = state(sources)
    rng = random.Random(5)
    killed = 0
    while killed < 4:
        if killed % 3 == 0:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        program = preloaded.start("-c", PROGRAM, sources, tmp_path / "out")
        enough = rng.randint(files_in(tmp_path / "out"), files_in(tmp_path / "whole"))
        while not program.ended() and files_in(tmp_path / "out") < enough:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        program.kill()
        if program.wait().returncode == -signal.SIGKILL:
            killed += 1
        else:
            shutil.rmtree(tmp_path / "out")
    report = ingest([sources], tmp_path / "out", workers=1)
    assert report.failures == []
    assert state(sources) == origin
    keep = {name: digest for name, digest in state(tmp_path / "whole").items() if name != ".lock"}
    assert {name: digest for name, digest in state(tmp_path / "out").items() if name != ".lock"} == keep
    with SliceStore(tmp_path / "out") as store:
        for volume in store:
            volume.verify()
            assert len(read_sources(store.path, volume.key)) == len(volume.z)
