"""What a run left is used again where it is whole and serves: after damage, for another budget, after a kill."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time

import pytest

import interrupted
import lim_gpu
from lim_gpu.progress import Reporter
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.reader import Reader
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from reductions import MEASURES, RESULTS, kept_of
from stores import make_store


def test_a_damaged_part_is_done_again_and_a_whole_one_is_not(store, tmp_path, capsys):
    out = tmp_path / "s.csv"
    lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out)
    expected = out.read_bytes()
    parts = sorted((tmp_path / "s.parts").glob(RESULTS))
    parts[0].write_bytes(parts[0].read_bytes()[:-40])
    stamps = [part.stat().st_mtime_ns for part in parts]
    out.unlink()
    (tmp_path / "s.json").unlink()
    lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out, reporter=Reporter())
    assert "done already: 3 of 4 units" in capsys.readouterr().err
    assert [part.stat().st_mtime_ns == stamp for part, stamp in zip(parts, stamps, strict=True)] == [False] + [True] * 3
    assert out.read_bytes() == expected


FIRST = {"hash": {"threshold": 6}, "ssim": {"keep": 0.5}, "mi": {"keep": 0.5}}
THEN = [{"keep": 0.2}, {"keep_count": 2}, {"threshold": {"hash": 3, "ssim": 0.9, "mi": 1.3}}, {"rule": "leader"}]


@pytest.mark.parametrize("then", THEN, ids=lambda then: "-".join(then))
@pytest.mark.parametrize("method", FIRST)
def test_another_budget_reads_no_pixels_and_gives_the_same_files(store, tmp_path, monkeypatch, method, then):
    how = {name: value[method] if isinstance(value, dict) else value for name, value in then.items()}
    if "rule" in how:
        how["threshold"] = THEN[2]["threshold"][method]
    lim_gpu.reduce(store, method, **FIRST[method], device="cpu", output=tmp_path / "s.csv")
    lim_gpu.reduce(store, method, **how, device="cpu", output=tmp_path / "fresh.csv")

    def unread(*_):
        raise AssertionError("pixels were read again")

    for where, name in ((StoredMatrix, "hashes"), (StoredMatrix, "compute"), (Reader, "_load")):
        monkeypatch.setattr(where, name, unread)
    lim_gpu.reduce(store, method, **how, device="cpu", output=tmp_path / "s.csv", overwrite=True)
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    record, fresh = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("s", "fresh"))
    for name in ("borderline", "resolved_threshold", "fingerprint", "counts"):
        assert record[name] == fresh[name]


def test_pairs_near_another_threshold_are_decided_anew(store, tmp_path):
    """A threshold that two slices' own float32 similarity gives exactly: float64 has to tell."""
    selection = lim_gpu.reduce(store, "ssim", keep=0.5, device="cpu", output=tmp_path / "s.csv")
    near = next(unit["resolved_threshold"] for unit in selection.record["units"] if unit["resolved_threshold"])
    again = lim_gpu.reduce(store, "ssim", threshold=near, device="cpu", output=tmp_path / "s.csv", overwrite=True)
    assert again.record["borderline"] > 0
    assert kept_of(again) == kept_of(lim_gpu.reduce(store, "ssim", threshold=near, device="cpu"))


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "empty"])
def test_a_damaged_measure_is_measured_again(store, tmp_path, damage):
    lim_gpu.reduce(store, "ssim", keep=0.5, device="cpu", output=tmp_path / "s.csv")
    files = sorted((tmp_path / "s.parts").glob(MEASURES))
    assert len(files) == len(store)
    for file in files:
        data = bytearray(file.read_bytes())
        if damage == "cut":
            del data[len(data) // 2 :]
        elif damage == "changed":  # within the matrix, which comes last
            data[data.rindex(b"PK\x01\x02", 0, data.rindex(b"fingerprint.npy")) - 8] ^= 1
        elif damage == "other":
            data = bytearray(files[0].read_bytes())
        else:
            data.clear()
        file.write_bytes(data)
    again = lim_gpu.reduce(store, "ssim", keep=0.2, device="cpu", output=tmp_path / "s.csv", overwrite=True)
    assert kept_of(again) == kept_of(lim_gpu.reduce(store, "ssim", keep=0.2, device="cpu"))


def test_a_large_matrix_is_not_kept(store, tmp_path, monkeypatch):
    monkeypatch.setattr("lim_gpu.reduction.measure.MOST_BYTES", 100)
    lim_gpu.reduce(store, "ssim", keep=0.5, device="cpu", output=tmp_path / "s.csv")
    kept = {file.stem for file in (tmp_path / "s.parts").glob(MEASURES)}
    assert kept == {volume.key for volume in store if 4 * volume.entry.shape[0] ** 2 <= 100}


def test_killed_runs_resume_to_the_same_selection(tmp_path, preloaded):
    """SIGKILL somewhere within the writing of a part, or of the selection; begun anew where it came too late."""
    path = make_store(tmp_path, tuple(("chest", 6, 24, 24) for _ in range(40)))
    program = (
        "import sys, lim_gpu\n"
        "with lim_gpu.SliceStore(sys.argv[1]) as store:\n"
        "    lim_gpu.reduce(store, 'every-n', keep=0.3, output=sys.argv[2])\n"
    )
    with SliceStore(path) as store:
        lim_gpu.reduce(store, "every-n", keep=0.3, output=tmp_path / "whole.csv")
    out, parts, killed = tmp_path / "killed.csv", tmp_path / "killed.parts", 0
    for attempt in itertools.count():
        child = preloaded.start("-c", program, path, out)
        before = len(list(parts.glob(RESULTS)))
        while not child.ended() and len(list(parts.glob(RESULTS))) < min(before + 3, 40):
            time.sleep(0.001)
        time.sleep(0.0007 * (attempt % 12))
        child.kill()
        if child.wait().returncode == -signal.SIGKILL:
            killed += 1
        else:
            shutil.rmtree(parts)
            out.unlink()
        if killed == 6:
            break
    assert preloaded.run("-c", program, path, out).returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(parts.glob(".*.tmp"))


@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_volumes_are_read_ahead_ends_at_once_and_resumes(
    store_path, tmp_path, preloaded, number, code, engines
):
    out = tmp_path / "s.csv"
    options = ["reduce", str(store_path), "--method", "hash", "--device", "cpu", "-o", str(out)]
    child = preloaded.start(interrupted.__file__, *options, env={"WAITS_FROM": "0", "ENGINES": str(engines)})
    while not child.printed():
        assert not child.ended(), child.wait().stderr
        time.sleep(0.01)
    os.kill(child.pid, number)
    done = child.wait()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    reads = done.stdout.count("reading")
    assert engines > 1 or reads < 4, "all four volumes are read"  # several engines end their units
    assert not out.exists()
    assert preloaded.run("-m", "lim_gpu.cli", *options).returncode == 0
    with SliceStore(store_path) as store:
        assert kept_of(Selection.load(out)) == kept_of(lim_gpu.reduce(store, "hash", device="cpu"))
