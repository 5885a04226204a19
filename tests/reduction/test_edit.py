"""A selection corrected by hand is a selection: what stands for each slice is found anew, and the file says all."""

from __future__ import annotations

import numpy as np
import pytest

import lim_gpu
from lim_gpu.cli.info import describe
from lim_gpu.errors import UsageError
from lim_gpu.progress import Reporter
from lim_gpu.reduction.edit import select_verb
from lim_gpu.selection import Selection
from stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("edit"), (("chest", 9, 24, 20), ("head", 4, 24, 20)))


@pytest.fixture
def parent(store, tmp_path):
    def make(method="ssim", **options):
        with lim_gpu.SliceStore(store) as opened:
            lim_gpu.reduce(opened, method, **options, output=tmp_path / "s.csv", device="cpu")
        return Selection.load(tmp_path / "s.csv")

    return make


def corrected(parent, output, add=(), drop=(), **options):
    outcome = select_verb(parent.path, add, drop, None, output, **options)
    return Selection.load(output) if output.exists() else None, outcome


@pytest.mark.parametrize("method", ["ssim", "hash"])
def test_who_stands_for_a_slice_is_as_in_a_reduction_that_keeps_the_same(parent, store, tmp_path, method):
    """Of 3 and of 4 kept slices one ranking: the smaller choice, corrected by hand, equals the larger one."""
    few = parent(method, keep_count=3)
    with lim_gpu.SliceStore(store) as opened:
        more = lim_gpu.reduce(opened, method, keep_count=4, device="cpu")
    add = [f"{key}:{i}" for key, i in sorted(set(more.kept()) - set(few.kept()))]
    assert add
    edited, _ = corrected(few, tmp_path / "edited.csv", add)
    for a, b in zip(edited.volumes, more.volumes, strict=True):
        np.testing.assert_array_equal(a.kept, b.kept)
        np.testing.assert_array_equal(a.similarity, b.similarity)
        assert a.covered_by == b.covered_by


def test_the_record_says_what_was_changed(parent, tmp_path):
    before = parent(keep_count=2)
    key, first = before.kept()[0]
    added = next(i for i in range(9) if (key, i) not in before.kept())
    edited, outcome = corrected(before, tmp_path / "out" / "edited.csv", [f"{key}:{added}"], [f"{key}:{first}"])
    record = edited.record
    assert record["method"] == "edited"
    assert record["edits"] == [f"add {key}:{added}", f"drop {key}:{first}"] == outcome.lines[1:]
    assert record["parent"]["fingerprint"] == before.record["fingerprint"]
    assert record["parent"]["path"] == "../s.csv"
    assert record["counts"]["kept"] == 4 == len(edited.kept())
    assert [unit["kept"] for unit in record["units"]] == [2, 2]
    assert edited.files()[0]["volume"] == key  # the store is found from the new place
    assert "edited" in describe(tmp_path / "out" / "edited.csv", False, Reporter(quiet=True)).lines[0]


def test_a_corrected_selection_can_be_corrected(parent, tmp_path):
    before = parent(keep_count=2)
    key = before.volumes[0].key
    free = [i for i in range(9) if (key, i) not in before.kept()]
    once, _ = corrected(before, tmp_path / "a" / "once.csv", [f"{key}:{free[0]}"])
    twice, _ = corrected(once, tmp_path / "b" / "twice.csv", [f"{key}:{free[1]}"])
    both, _ = corrected(before, tmp_path / "both.csv", [f"{key}:{free[0]},{free[1]}"])
    np.testing.assert_array_equal(twice.volumes[0].similarity, both.volumes[0].similarity)
    assert twice.record["parent"]["method"] == "edited"
    assert np.isfinite(twice.volumes[0].similarity).all()


def test_where_nothing_was_compared_the_nearest_stands(parent, tmp_path):
    before = parent("every-n", keep_count=3)
    key = before.volumes[0].key
    edited, _ = corrected(before, tmp_path / "edited.csv", [f"{key}:8"], [f"{key}:6"])
    assert [i for _, i in edited.volumes[0].covered_by] == [0, 0, 3, 3, 3, 3, 8, 8, 8]
    assert np.isnan(edited.volumes[0].similarity).all()


def test_it_reports_again_as_unchanged_and_replaces_nothing_else(parent, tmp_path):
    before = parent(keep_count=2)
    key = before.volumes[0].key
    free = [i for i in range(9) if (key, i) not in before.kept()]
    out = tmp_path / "edited.csv"
    _, plan = corrected(before, out, [f"{key}:{free[0]}"], dry_run=True)
    assert not out.exists()
    assert plan.lines[0].startswith("plan: ")
    corrected(before, out, [f"{key}:{free[0]}"])
    assert corrected(before, out, [f"{key}:{free[0]}"])[1].lines[0].startswith("unchanged: ")
    with pytest.raises(UsageError, match="--overwrite"):
        corrected(before, out, [f"{key}:{free[1]}"])
    with pytest.raises(UsageError, match="another -o"):
        corrected(before, before.path, [f"{key}:{free[1]}"])


def test_no_volume_loses_its_last_slice_and_no_edit_is_empty(parent, tmp_path):
    before = parent(keep_count=1)
    key, i = before.kept()[1]
    with pytest.raises(UsageError, match=f"volume {key}: no slice would be left"):
        corrected(before, tmp_path / "e.csv", drop=[f"{key}:{i}"])
    with pytest.raises(UsageError, match="so already"):
        corrected(before, tmp_path / "e.csv", [f"{key}:{i}"])
