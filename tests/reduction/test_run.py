"""Reduce: what is kept against a separate, plain implementation; resume; failures; scopes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torchvision.models import resnet50

import interrupted
import lim_gpu
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.progress import Reporter
from lim_gpu.reduction.choice import choose
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.selection import Selection
from lim_gpu.similarity.ssim import ssim_pair
from lim_gpu.store.slices import SliceStore
from stores import make_store


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("reduction"))


@pytest.fixture
def store(store_path):
    with SliceStore(store_path) as store:
        yield store


def pixels(store):
    return {volume.key: volume.read() for volume in store}


def plain_hash_matrix(slices):
    imagehash = pytest.importorskip("imagehash")
    hashes = [imagehash.dhash(Image.fromarray(image)) for image in slices]
    return [[1 - (a - b) / 64 for b in hashes] for a in hashes]


def plain_ssim_matrix(slices):
    def ssim(x, y):
        return structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )

    return [[ssim(x, y) for y in slices] for x in slices]


def plain_greedy(matrix, stop):
    there = set(range(len(matrix)))
    pairs = sorted((-matrix[i][j], i, j) for i in there for j in there if i < j)
    for negative, i, j in pairs:
        if stop(len(there), -negative):
            break
        if i in there and j in there:
            there.remove(j)
    return sorted(there)


def plain_leader(matrix, threshold):
    left, kept = list(range(len(matrix))), []
    while left:
        kept.append(left.pop(0))
        left = [k for k in left if matrix[kept[-1]][k] < threshold]
    return kept


def kept_of(selection):
    return {volume.key: np.flatnonzero(volume.kept).tolist() for volume in selection.volumes}


def test_hash_threshold_equals_a_plain_walk(store):
    expected = {
        key: plain_greedy(plain_hash_matrix(slices), lambda _n, s: s < 1 - 6 / 64)
        for key, slices in pixels(store).items()
    }
    assert kept_of(lim_gpu.reduce(store, method="hash", threshold=6, device="cpu")) == expected
    assert kept_of(lim_gpu.reduce(store, method="hash", device="cpu")) == expected
    assert any(len(kept) > 1 for kept in expected.values())


def test_leader_equals_the_authors_walk(store):
    expected = {key: plain_leader(plain_hash_matrix(s), 1 - 6 / 64) for key, s in pixels(store).items()}
    assert kept_of(lim_gpu.reduce(store, method="hash", threshold=6, rule="leader", device="cpu")) == expected


def test_lexicographic_leader_walks_the_slices_as_file_names_sort(store):
    expected = {}
    for key, slices in pixels(store).items():
        order = sorted(range(len(slices)), key=str)
        kept = plain_leader(plain_hash_matrix(slices[order]), 1 - 3 / 64)
        expected[key] = sorted(order[i] for i in kept)
    selection = lim_gpu.reduce(store, "hash", threshold=3, rule="leader", order="lexicographic", device="cpu")
    assert kept_of(selection) == expected
    spatial = lim_gpu.reduce(store, "hash", threshold=3, rule="leader", device="cpu")
    assert kept_of(spatial) != expected


def test_ssim_keep_equals_a_plain_walk(store):
    expected = {}
    for key, slices in pixels(store).items():
        target = max(1, int(np.ceil(0.3 * len(slices) - 1e-9)))
        expected[key] = plain_greedy(plain_ssim_matrix(slices), lambda n, _s, target=target: n <= target)
    assert kept_of(lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu")) == expected


def test_every_dropped_slice_names_the_nearest_kept_one(store):
    selection = lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu")
    for volume, slices in zip(selection.volumes, pixels(store).values(), strict=True):
        matrix = np.array(plain_ssim_matrix(slices))
        kept = np.flatnonzero(volume.kept)
        for i in range(len(slices)):
            key, covering = volume.covered_by[i]
            assert key == volume.key
            assert volume.kept[covering]
            assert matrix[i, covering] == pytest.approx(matrix[i, kept].max(), abs=1e-5)
            assert volume.similarity[i] == pytest.approx(matrix[i, covering], abs=1e-5)
            assert covering == i or not volume.kept[i]
        n = len(slices)
        assert sorted(volume.rank.tolist()) == list(range(n))
        assert set(np.argsort(volume.rank)[n - len(kept) :]) == set(kept)


@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_keep_and_threshold_the_first_that_stops_stops(store, method):
    threshold = {"ssim": 0.8, "mi": 1.2, "hash": 8}[method]
    both = kept_of(lim_gpu.reduce(store, method, keep=0.3, threshold=threshold, device="cpu"))
    one, other = (
        kept_of(lim_gpu.reduce(store, method, device="cpu", **stop))
        for stop in ({"keep": 0.3}, {"threshold": threshold})
    )
    assert both == {key: sorted({*one[key], *other[key]}) for key in both}


def test_baselines(store):
    assert all(volume.kept.all() for volume in lim_gpu.reduce(store, "all").volumes)
    every = kept_of(lim_gpu.reduce(store, "every-n", keep=0.25))
    assert next(iter(every.values())) == [0, 4, 8, 12]
    chosen = lim_gpu.reduce(store, "random", keep=0.25, seed=5)
    assert kept_of(chosen) == kept_of(lim_gpu.reduce(store, "random", keep=0.25, seed=5))
    assert kept_of(chosen) != kept_of(lim_gpu.reduce(store, "random", keep=0.25, seed=6))
    for volume in chosen.volumes:
        kept = np.flatnonzero(volume.kept)
        assert (volume.rank == -1).all()
        for i, (_key, covering) in enumerate(volume.covered_by):
            assert covering == kept[np.argmin(np.abs(kept - i))]


def test_scope_patient_prunes_a_patients_volumes_together(store):
    selection = lim_gpu.reduce(store, "hash", keep=0.2, scope="patient", device="cpu")
    units = selection.record["units"]
    assert [unit["slices"] for unit in units] == [23, 12]
    assert [unit["kept"] for unit in units] == [5, 3]
    slices = pixels(store)
    first = [image for key in units[0]["volumes"] for image in slices[key]]
    kept = plain_greedy(plain_hash_matrix(first), lambda n, _s: n <= 5)
    places = [(key, i) for key in units[0]["volumes"] for i in range(len(slices[key]))]
    assert [place for place in selection.kept() if place[0] in units[0]["volumes"]] == [places[i] for i in kept]


def test_scope_dataset_covers_across_volumes(store):
    selection = lim_gpu.reduce(store, "hash", keep_count=2, scope="dataset", device="cpu")
    assert len(selection.kept()) == 2
    assert {covering for volume in selection.volumes for covering in volume.covered_by} <= set(selection.kept())


def test_slices_of_unequal_shape_are_not_compared_and_that_is_said_once(store, capsys):
    selection = lim_gpu.reduce(store, "ssim", keep_count=1, scope="dataset", device="cpu", reporter=Reporter())
    assert capsys.readouterr().err.count("equal shape") == 1
    assert len(selection.kept()) == 3  # one for each shape


def test_output_is_written_unchanged_and_refused(store, tmp_path, capsys):
    out = tmp_path / "selection.csv"
    first = lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out)
    assert kept_of(Selection.load(out)) == kept_of(first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out, reporter=Reporter())
    assert "unchanged" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="--overwrite"):
        lim_gpu.reduce(store, "hash", keep=0.5, device="cpu", output=out)
    lim_gpu.reduce(store, "hash", keep=0.5, device="cpu", output=out, overwrite=True)
    assert kept_of(Selection.load(out)) != kept_of(first)


def test_the_record_tells_how_it_was_made(store, tmp_path):
    lim_gpu.reduce(store, "mi", keep=0.3, bins=32, device="cpu", output=tmp_path / "s.csv")
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["method"] == "mi"
    assert record["parameters"]["bins"] == 32
    assert record["counts"] == {"volumes": 4, "slices": 35, "kept": 13, "failed_volumes": 0}
    assert record["store"]["fingerprint"] == store.fingerprint
    assert (tmp_path / record["store"]["path"]).resolve() == store.path.resolve()
    assert all(1 <= unit["resolved_threshold"] <= 2 for unit in record["units"] if unit["slices"] > 1)
    assert {"lim-gpu", "numpy", "torch"} <= set(record["versions"])
    parts = json.loads(next((tmp_path / "s.parts").glob("*.json")).read_text())
    assert parts["result"]["matrix"]["png"]


def test_a_damaged_part_is_done_again_and_a_whole_one_is_not(store, tmp_path, capsys):
    out = tmp_path / "s.csv"
    lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out)
    expected = out.read_bytes()
    parts = sorted((tmp_path / "s.parts").glob("*.json"))
    parts[0].write_text(parts[0].read_text()[:-40])
    stamps = [part.stat().st_mtime_ns for part in parts]
    out.unlink()
    (tmp_path / "s.json").unlink()
    lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=out, reporter=Reporter())
    assert "3 of 4 units were done already" in capsys.readouterr().err
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

    for name in ("hashes", "compute", "_load"):
        monkeypatch.setattr(StoredMatrix, name, unread)
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
    files = sorted((tmp_path / "s.parts").glob("*.npz"))
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
    kept = {file.stem for file in (tmp_path / "s.parts").glob("*.npz")}
    assert kept == {volume.key for volume in store if 4 * volume.entry.shape[0] ** 2 <= 100}


def test_killed_runs_resume_to_the_same_selection(tmp_path):
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
        child = subprocess.Popen([sys.executable, "-c", program, str(path), str(out)])
        before = len(list(parts.glob("*.json")))
        while child.poll() is None and len(list(parts.glob("*.json"))) < min(before + 3, 40):
            time.sleep(0.001)
        time.sleep(0.0007 * attempt)
        child.send_signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            killed += 1
        else:
            shutil.rmtree(parts)
            out.unlink()
        if killed == 6:
            break
    subprocess.run([sys.executable, "-c", program, str(path), str(out)], check=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(parts.glob(".*.tmp"))


def test_a_cut_volume_is_named_and_the_rest_goes_on(store_path, tmp_path, capsys):
    copy = tmp_path / "slices"
    shutil.copytree(store_path, copy)
    with SliceStore(copy) as store:
        bad = store.volumes[1].key
        file = copy / "volumes" / f"{bad}.h5"
        file.write_bytes(file.read_bytes()[:-2000])
        selection = lim_gpu.reduce(
            store, "hash", keep=0.3, device="cpu", output=tmp_path / "s.csv", reporter=Reporter(quiet=True)
        )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert bad in error
    assert [failure["volume"] for failure in selection.record["failures"]] == [bad]
    assert bad not in kept_of(Selection.load(tmp_path / "s.csv"))
    assert len(selection.volumes) == 3
    shutil.copy(store_path / "volumes" / f"{bad}.h5", file)
    with SliceStore(copy) as store:  # mended: the same command completes the selection
        assert len(lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=tmp_path / "s.csv").volumes) == 4


def same_but_for_time_and_device(record):
    units = [{name: unit[name] for name in unit if name not in ("device", "seconds")} for unit in record["units"]]
    return {name: record[name] for name in record if name not in ("device", "seconds", "store")} | {"units": units}


@pytest.fixture
def several_engines(monkeypatch):
    monkeypatch.setattr("lim_gpu.similarity.resolve_devices", lambda device: [torch.device("cpu")] * 3)


@pytest.mark.parametrize("method", ["ssim", "hash"])
@pytest.mark.parametrize("scope", ["volume", "patient", "dataset"])
def test_several_engines_give_the_bytes_of_one(store, tmp_path, request, method, scope):
    one = lim_gpu.reduce(store, method, keep=0.3, scope=scope, device="cpu", output=tmp_path / "one.csv")
    request.getfixturevalue("several_engines")
    three = lim_gpu.reduce(store, method, keep=0.3, scope=scope, device="cuda", output=tmp_path / "three.csv")
    assert (tmp_path / "three.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert same_but_for_time_and_device(three.record) == same_but_for_time_and_device(one.record)


def test_every_engine_gets_units_and_no_unit_goes_to_two(store, several_engines, monkeypatch):
    by_engine, compute = {}, StoredMatrix.compute
    together = threading.Barrier(3)

    def noted(self, volumes):
        if self not in by_engine:
            together.wait(60)  # breaks unless three engines work at the same time
        by_engine.setdefault(self, []).extend(volume.key for volume in volumes)
        return compute(self, volumes)

    monkeypatch.setattr(StoredMatrix, "compute", noted)
    lim_gpu.reduce(store, "ssim", keep=0.3, device="cuda")
    assert sorted(map(len, by_engine.values())) == [1, 1, 2]
    assert sorted(chain.from_iterable(by_engine.values())) == sorted(entry.key for entry in store.volumes)


def test_an_error_of_one_engine_ends_all(store, several_engines, monkeypatch):
    def fail(self, volumes):
        raise LimGpuError("cuda:1: broken")

    monkeypatch.setattr(StoredMatrix, "compute", fail)
    with pytest.raises(LimGpuError, match="cuda:1: broken"):
        lim_gpu.reduce(store, "ssim", keep=0.3, device="cuda")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read-ahead", "ThreadPool"))]


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("scope", ["volume", "dataset"])
@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_reading_ahead_changes_nothing_even_beside_a_cut_volume(
    store_path, tmp_path, monkeypatch, method, scope, engines
):
    copy = tmp_path / "slices"
    shutil.copytree(store_path, copy)
    with SliceStore(copy) as store:
        bad = store.volumes[1].key
        file = copy / "volumes" / f"{bad}.h5"
        file.write_bytes(file.read_bytes()[:-2000])
        monkeypatch.setattr(StoredMatrix, "expect", lambda self, volumes: None)
        plain = lim_gpu.reduce(store, method, keep=0.3, scope=scope, device="cpu", output=tmp_path / "plain.csv")
        monkeypatch.undo()
        for name in ("BLOCK_BYTES", "CACHED_BYTES"):
            monkeypatch.setattr(f"lim_gpu.reduction.engine.{name}", 2 * 3 * 48 * 40)  # three slices a piece
        monkeypatch.setattr("lim_gpu.similarity.resolve_devices", lambda device: [torch.device("cpu")] * engines)
        ahead = lim_gpu.reduce(store, method, keep=0.3, scope=scope, device="cpu", output=tmp_path / "ahead.csv")
    assert [failure["volume"] for failure in ahead.record["failures"]] == [bad]
    assert same_but_for_time_and_device(ahead.record) == same_but_for_time_and_device(plain.record)
    assert (tmp_path / "ahead.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_the_next_volume_is_read_while_one_is_compared(store, monkeypatch):
    keys = [entry.key for entry in store.volumes]
    begun = {key: threading.Event() for key in [*keys, None]}
    begun[None].set()  # nothing comes after the last
    after = dict(zip(keys, [*keys[1:], None], strict=True))
    load, compute = StoredMatrix._load, StoredMatrix.compute

    def noted(self, piece):
        begun[piece.volume.key].set()
        return load(self, piece)

    def compute_beside_reading(self, volumes):
        assert begun[after[volumes[0].key]].wait(60)
        return compute(self, volumes)

    monkeypatch.setattr(StoredMatrix, "_load", noted)
    monkeypatch.setattr(StoredMatrix, "compute", compute_beside_reading)
    assert len(lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu").volumes) == 4


def test_the_record_names_every_device_that_worked(store, several_engines, monkeypatch):
    monkeypatch.setattr("lim_gpu.reduction.share.choose", lambda *given: replace(choose(*given), device=next(names)))
    names = iter(["cuda:1", "cuda:0", "cuda:1", "cuda:0"])
    assert lim_gpu.reduce(store, "hash", device="cuda").record["device"] == "cuda:0, cuda:1"


@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_volumes_are_read_ahead_ends_at_once_and_resumes(
    store_path, tmp_path, number, code, engines
):
    out = tmp_path / "s.csv"
    options = ["reduce", str(store_path), "--method", "hash", "--device", "cpu", "-o", str(out)]
    command = [sys.executable, interrupted.__file__, *options]
    environment = os.environ | {"WAITS_FROM": "0", "ENGINES": str(engines)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stdout.readline() == "reading\n"
    child.send_signal(number)
    more, errors = child.communicate(timeout=800)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert engines > 1 or more.count("reading") < 3, "all four volumes are read"  # several engines end their units
    assert not out.exists()
    subprocess.run([sys.executable, "-m", "lim_gpu.cli", *options], check=True, capture_output=True)
    with SliceStore(store_path) as store:
        assert kept_of(Selection.load(out)) == kept_of(lim_gpu.reduce(store, "hash", device="cpu"))


def test_a_store_without_a_readable_volume_is_an_error(store_path, tmp_path):
    copy = tmp_path / "slices"
    shutil.copytree(store_path, copy)
    for file in (copy / "volumes").glob("*.h5"):
        file.write_bytes(b"not hdf5")
    with SliceStore(copy) as store, pytest.raises(InputError, match="no volume can be read"):
        lim_gpu.reduce(store, "hash", keep=0.3, device="cpu")


def test_deepnet_over_volumes_of_different_sizes(store, tmp_path):
    torch.manual_seed(0)
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "w.pth")
    options = {"scope": "dataset", "weights": tmp_path / "w.pth", "device": "cpu"}
    ranked = lim_gpu.reduce(store, "deepnet", keep_count=2, **options)
    at = ranked.record["resolved_threshold"]
    selection = lim_gpu.reduce(store, "deepnet", threshold=at, **options)
    assert selection.record["borderline"] >= 1
    assert 1 <= len(selection.kept()) <= 3


def test_the_threshold_resolves_in_the_methods_own_unit(store):
    record = lim_gpu.reduce(store, "hash", keep=0.3, device="cpu").record
    bits = [unit["resolved_threshold"] for unit in record["units"] if unit["slices"] > 1]
    assert all(value == int(value) and 0 <= value <= 64 for value in bits)
    assert record["resolved_threshold"] == max(bits)


def test_pairs_near_the_threshold_are_decided_in_float64(store):
    volume = next(iter(store))
    slices = volume.read()
    exact = ssim_pair(slices[0], slices[1], 255)
    assert exact == pytest.approx(plain_ssim_matrix(slices[:2])[0][1], abs=1e-10)
    at = lim_gpu.reduce(store, "ssim", threshold=exact, rule="leader", device="cpu")
    above = lim_gpu.reduce(store, "ssim", threshold=float(np.nextafter(exact, 2)), rule="leader", device="cpu")
    assert at.record["borderline"] >= 1
    assert kept_of(at)[volume.key][1:2] != [1]
    assert kept_of(above)[volume.key][1] == 1
