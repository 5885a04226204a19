"""Comparisons of selections: the figures against plain loops, the baselines, the files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.run import reduce
from lim_gpu.report import compare as compare_module
from lim_gpu.report.compare import compare
from lim_gpu.report.compare_table import table
from lim_gpu.report.compared import FIGURES, Compared
from lim_gpu.selection import Selection
from lim_gpu.similarity.ssim import ssim_pair
from lim_gpu.store.slices import SliceStore
from stores import make_store

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    with SliceStore(make_store(folder)) as store:
        for method in ("ssim", "hash"):
            reduce(store, method, keep=0.4, output=folder / f"{method}.csv", device="cpu")
    return folder


def test_the_figures_are_those_of_plain_loops(folder, tmp_path):
    result = compare([folder / "ssim.csv", folder / "hash.csv"], tmp_path / "c.csv", device="cpu", reporter=QUIET)
    rows = {row["name"]: row for row in result.values["rows"]}
    assert list(rows) == ["ssim", "hash", "every-n", "random"]
    means, highest, covered, coverage = [], [], [], []
    with SliceStore(folder / "slices") as store:
        selected = list(csv.DictReader((folder / "ssim.csv").open()))
        for volume in store:
            images = Intensity.parse().to_uint8(volume.read())
            kept = [int(r["slice"]) for r in selected if r["volume"] == volume.key and r["kept"] == "1"]
            dropped = [i for i in range(len(images)) if i not in kept]
            pairs = [ssim_pair(images[i], images[j], 255) for i in kept for j in kept if i < j]
            if pairs:
                means.append(np.mean(pairs))
                highest.append(max(pairs))
            if dropped:
                nearest = [max(ssim_pair(images[i], images[j], 255) for j in kept) for i in dropped]
                covered.append(np.mean(nearest))
                coverage.append(min(nearest))
    row = rows["ssim"]
    assert row["ssim_mean"] == pytest.approx(np.mean(means), abs=1e-5)
    assert row["ssim_highest"] == pytest.approx(np.mean(highest), abs=1e-5)
    assert row["ssim_covered"] == pytest.approx(np.mean(covered), abs=1e-5)
    assert row["ssim_coverage"] == pytest.approx(np.mean(coverage), abs=1e-5)
    assert {row["kept"] for row in rows.values()} == {rows["ssim"]["kept"]}


def test_rules_stand_beside_each_other(folder, tmp_path):
    rules = ("greedy", "facility", "k-center")
    how = {"store": folder / "slices", "methods": ("ssim",), "rules": rules, "keep": 0.3}
    result = compare([], tmp_path / "c.csv", **how, device="cpu", reporter=QUIET)
    rows = {row["name"]: row for row in result.values["rows"]}
    assert list(rows) == ["ssim", "ssim-facility", "ssim-k-center", "every-n", "random"]
    assert len({row["kept"] for row in rows.values()}) == 1
    assert max(rows, key=lambda name: rows[name]["ssim_covered"]) == "ssim-facility"
    assert rows["ssim-k-center"]["ssim_coverage"] > rows["random"]["ssim_coverage"]
    with SliceStore(folder / "slices") as store:
        made = reduce(store, "ssim", keep=0.3, rule="k-center", device="cpu")
    written = Selection.load(tmp_path / "c.selections" / "ssim-k-center.csv")
    for volume, other in zip(made.volumes, written.volumes, strict=True):
        np.testing.assert_array_equal(volume.kept, other.kept)
    with pytest.raises(UsageError, match="--rule says how --method"):
        compare([folder / "ssim.csv"], tmp_path / "d.csv", rules=rules, device="cpu", reporter=QUIET)


def test_overlap_is_symmetric_with_ones_and_counts_shared_slices(folder, tmp_path):
    result = compare([folder / "ssim.csv", folder / "hash.csv"], tmp_path / "c.csv", device="cpu", reporter=QUIET)
    overlap = np.array(result.values["overlap"])
    assert np.array_equal(overlap, overlap.T)
    assert np.array_equal(np.diag(overlap), np.ones(4))
    kept = [
        {(r["volume"], r["slice"]) for r in csv.DictReader((folder / f"{m}.csv").open()) if r["kept"] == "1"}
        for m in ("ssim", "hash")
    ]
    assert overlap[0, 1] == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]), abs=1e-4)


def test_methods_are_reduced_and_their_selections_kept(folder, tmp_path):
    options = {"store": folder / "slices", "methods": ("ssim", "hash"), "keep": 0.4, "device": "cpu", "reporter": QUIET}
    result = compare([], tmp_path / "c.csv", **options)
    assert (tmp_path / "c.selections" / "ssim.csv").exists()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "c.json").read_text()) == result.values
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [row["name"] for row in rows] == ["ssim", "hash", "every-n", "random"]
    direct = compare([folder / "ssim.csv", folder / "hash.csv"], tmp_path / "d.csv", device="cpu", reporter=QUIET)
    for row, other in zip(result.values["rows"], direct.values["rows"], strict=True):
        assert row | {"seconds": None} == other | {"seconds": None}


def test_every_budget_has_its_baselines_and_an_empty_volume_is_no_fault(folder, tmp_path):
    with SliceStore(folder / "slices") as store:
        reduce(store, "hash", threshold=20, scope="dataset", output=tmp_path / "few.csv", device="cpu")
    with (tmp_path / "few.csv").open() as file:
        kept = sum(row["kept"] == "1" for row in csv.DictReader(file))
    paths = [folder / "ssim.csv", tmp_path / "few.csv"]
    result = compare(paths, tmp_path / "c.csv", store=folder / "slices", device="cpu", reporter=QUIET)
    counts = {row["name"]: row["kept"] for row in result.values["rows"]}
    names = ["ssim", "few", "every-n like ssim", "random like ssim", "every-n like few", "random like few"]
    assert list(counts) == names
    assert counts["every-n like few"] == counts["random like few"] == counts["few"] == kept
    assert counts["every-n like ssim"] == counts["ssim"] > kept


def test_what_could_not_be_measured_is_told_again_where_nothing_has_changed(folder, tmp_path, monkeypatch):
    measure, failing = compare_module._measure_volume, []

    def unreadable_once(compared, volume, metric, engine):
        if metric == "ssim" and volume.key in (failing or (failing.append(volume.key) or failing)):
            raise UnreadableVolumeError(volume.key, "cannot be read")
        measure(compared, volume, metric, engine)

    monkeypatch.setattr(compare_module, "_measure_volume", unreadable_once)
    paths = [folder / "ssim.csv", folder / "hash.csv"]
    first, again = (compare(paths, tmp_path / "c.csv", device="cpu", reporter=QUIET) for _ in range(2))
    assert first.skipped
    assert first.values["failed"] == 1
    assert again.values["unchanged"]
    assert again.skipped


def test_a_selection_that_is_a_baseline_stands_for_it(folder, tmp_path):
    with SliceStore(folder / "slices") as store:
        reduce(store, "random", keep=0.4, output=tmp_path / "chance.csv")
    paths = [folder / "ssim.csv", tmp_path / "chance.csv"]
    result = compare(paths, tmp_path / "c.csv", store=folder / "slices", device="cpu", reporter=QUIET)
    assert [row["name"] for row in result.values["rows"]] == ["ssim", "chance", "every-n"]


def test_the_table_fits_a_terminal_and_tells_hashes_in_bits():
    names = [f"a-selection-with-a-name-that-says-everything-about-it-{i}" for i in range(12)]
    numbers = {f"{m}_{what}": 0.75 for m in ("ssim", "mi", "hash", "deepnet") for what in FIGURES}
    rows = [{"name": name, "kept": 1_234_567, "seconds": 98765.4} | numbers for name in names]
    lines = table({"rows": rows, "overlap": [[1.0] * 12] * 12}, ["ssim", "mi", "deepnet", "hash"])
    assert max(map(len, lines)) <= 80
    (start,) = (number for number, line in enumerate(lines) if line.startswith("bits apart"))
    assert lines[start + 1].split()[1:] == ["16.0"] * 4  # 64 * (1 - 0.75)
    assert sum(line.split()[-1:] == ["12"] for line in lines) == 1  # columns in pieces: each stands once


def test_a_dry_run_writes_nothing(folder, tmp_path):
    result = compare([folder / "ssim.csv"], tmp_path / "c.csv", dry_run=True, reporter=QUIET)
    assert [path.rpartition(".")[2] for path in result.values["outputs"]] == ["csv", "json", "png"]
    assert list(tmp_path.iterdir()) == []


def test_contradictions_are_one_line(folder, tmp_path):
    options = {"device": "cpu", "reporter": QUIET}
    with pytest.raises(UsageError, match="selections, or a store"):
        compare([], tmp_path / "c.csv", **options)
    with pytest.raises(UsageError, match="baselines"):
        compare([], tmp_path / "c.csv", store=folder / "slices", methods=("random",), keep=0.4, **options)
    other = make_store(tmp_path / "other", (("head", 3, 40, 40),))
    with pytest.raises(InputError, match="none of its volumes is in"):
        compare([folder / "ssim.csv"], tmp_path / "c.csv", store=other, **options)
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        compare([folder / "ssim.csv"], tmp_path / "c.csv", **options)


def test_again_it_is_unchanged_until_something_is(folder, tmp_path):
    options = {"device": "cpu", "reporter": QUIET}
    paths = [folder / "ssim.csv", folder / "hash.csv"]
    first = compare(paths, tmp_path / "c.csv", **options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for more in ({}, {"dry_run": True}, {"overwrite": True}):
        again = compare(paths, tmp_path / "c.csv", **more, **options)
        assert again.lines[0].startswith("unchanged: ")
        assert again.lines[1:] == first.lines[:-1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for more in ({}, {"dry_run": True}):
        with pytest.raises(UsageError, match="made otherwise"):
            compare(paths[:1], tmp_path / "c.csv", **more, **options)
    (tmp_path / "c.png").unlink()
    with pytest.raises(UsageError, match="made otherwise"):
        compare(paths, tmp_path / "c.csv", **options)


def test_with_a_program_that_draws_otherwise_it_is_another_comparison(folder, tmp_path, make_newer):
    options = {"device": "cpu", "reporter": QUIET}
    compare([folder / "ssim.csv"], tmp_path / "c.csv", **options)
    make_newer("compare_picture.py")
    with pytest.raises(UsageError, match="made otherwise"):
        compare([folder / "ssim.csv"], tmp_path / "c.csv", **options)


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_call_and_the_input_come_before_the_output(folder, tmp_path, dry_run):
    (tmp_path / "c.csv").write_text("mine")
    options = {"device": "cpu", "reporter": QUIET, "dry_run": dry_run}
    store = {"store": folder / "slices", "keep": 0.4}
    with pytest.raises(UsageError, match="selections, or a store"):
        compare([], tmp_path / "c.csv", **store, **options)
    with pytest.raises(UsageError, match="Did you mean hash"):
        compare([], tmp_path / "c.csv", methods=("hsah",), **store, **options)
    with pytest.raises(InputError, match="none.csv"):
        compare([tmp_path / "none.csv"], tmp_path / "c.csv", **options)
    with pytest.raises(UsageError, match="c.csv: exists"):
        compare([folder / "ssim.csv"], tmp_path / "c.csv", **options)


def test_a_share_is_rounded_once():
    """10 of 286 slices are 3.4965 %: 3, in the table as in the picture."""
    compared = [Compared(name, "hash", {"v": np.arange(148) + first}, None) for name, first in (("a", 0), ("b", 138))]
    shared = table(compare_module._values(compared, [], 0), [])[-2:]
    assert [line.split() for line in shared] == [["1", "a", "100", "3"], ["2", "b", "3", "100"]]
