"""The selection's two files: round trip, pairs that do not belong together, foreign and damaged files."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import JSON_LIMIT
from lim_gpu.selection import FORMAT, VERSION, Selection, VolumeSelection, relative_path, selection_paths
from lim_gpu.selection.volume import COLUMNS

FINITE = st.floats(-1e6, 1e6)


def record(**extra):
    return {"format": FORMAT, "version": VERSION, "store": {"path": "slices", "fingerprint": "f" * 64}} | extra


@st.composite
def volume(draw, key):
    n = draw(st.integers(1, 12))
    kept = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    kept[draw(st.integers(0, n - 1))] = True
    others = draw(st.lists(st.sampled_from([key, "f" * 16]), min_size=n, max_size=n))
    return VolumeSelection(
        key,
        np.array(draw(st.lists(FINITE, min_size=n, max_size=n))),
        kept,
        np.array(draw(st.lists(st.integers(-1, 20), min_size=n, max_size=n))),
        tuple((other, draw(st.integers(0, 99))) for other in others),
        np.array(draw(st.lists(FINITE | st.just(np.nan), min_size=n, max_size=n)), dtype=np.float32),
    )


selections = st.builds(
    lambda *volumes: Selection(volumes, record(method="ssim", seconds=1.5)), volume("0" * 16), volume("a" * 16)
)


@settings(max_examples=40)
@given(selections)
def test_round_trip_to_the_bit(tmp_path_factory, selection):
    path = tmp_path_factory.mktemp("s") / "selection.csv"
    selection.save(path)
    back = Selection.load(path)
    assert back.kept() == selection.kept()
    assert back.store_fingerprint == selection.store_fingerprint
    for a, b in zip(selection.volumes, back.volumes, strict=True):
        assert (a.key, a.covered_by) == (b.key, b.covered_by)
        np.testing.assert_array_equal(a.z, b.z)
        np.testing.assert_array_equal(a.kept, b.kept)
        np.testing.assert_array_equal(a.rank, b.rank)
        np.testing.assert_array_equal(a.similarity, b.similarity)


def test_a_million_slices_take_less_than_100_mb(tmp_path):
    """Told of 50,000 in 200 volumes, each slice covered by one of another volume, as in a data set of one scope."""
    n, size = 50_000, 250
    keys = [f"{i:016x}" for i in range(n // size)]
    rows = (f"{keys[i // size]},{i % size},{i}.5,1,{i},{keys[i * 7919 % len(keys)]}:{i % size},0.75" for i in range(n))
    text = "\n".join([",".join(COLUMNS), *rows, ""])
    (tmp_path / "s.csv").write_text(text)
    (tmp_path / "s.json").write_text(json.dumps(record(csv_sha256=hashlib.sha256(text.encode()).hexdigest())))
    del text
    tracemalloc.start()
    try:
        back = Selection.load(tmp_path / "s.csv")
        assert tracemalloc.get_traced_memory()[1] < 100 * n
    finally:
        tracemalloc.stop()
    assert [len(volume.kept) for volume in back.volumes] == [size] * len(keys)
    assert back.volumes[1].covered_by[3] == (keys[(size + 3) * 7919 % len(keys)], 3)


@pytest.fixture
def saved(tmp_path):
    own = VolumeSelection(
        "0" * 16,
        np.array([0.0, 2.5]),
        np.array([True, False]),
        np.array([1, 0]),
        (("0" * 16, 0),) * 2,
        np.array([1, 0.9], np.float32),
    )
    Selection((own,), record()).save(tmp_path / "selection.csv")
    return tmp_path / "selection.csv"


def test_the_columns_are_those_of_the_format(saved):
    assert saved.read_text() == (
        "volume,slice,z_mm,kept,rank,covered_by,similarity\n"
        "0000000000000000,0,0.0,1,1,0,1.0\n"
        "0000000000000000,1,2.5,0,0,0,0.9\n"
    )


def test_a_pair_that_does_not_belong_together_is_refused(saved):
    saved.write_text(saved.read_text().replace(",0.9", ",0.8"))
    with pytest.raises(InputError, match="does not belong"):
        Selection.load(saved)


@pytest.mark.parametrize("name", ["selection.txt", "selection"])
def test_another_ending_is_refused(name):
    with pytest.raises(UsageError, match="NAME.csv"):
        selection_paths(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0000000000000000,0", "../../etc/passwd,0"),
        ("covered_by", "covered"),
        (",1,2.5", ",2,2.5"),
        (",0,0,0.9", ",0,x,0.9"),
        ("2.5,0,0", "2.5,2,0"),
        (",0.9", ",0.9,7"),
        (",0.9", ",0.9\n0000000000000001,0,0.0,1,0,0,1.0\n0000000000000000,0,0.0,1,0,0,1.0"),
    ],
)
def test_foreign_rows_are_refused(saved, old, new):
    text = saved.read_text().replace(old, new)
    saved.write_text(text)
    saved.with_suffix(".json").write_text(json.dumps(record(csv_sha256=hashlib.sha256(text.encode()).hexdigest())))
    with pytest.raises(InputError, match="selection.csv"):
        Selection.load(saved)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"format": "other"}', '{"format": "lim-gpu-selection", "version": 9}', ""]
)
def test_foreign_json_is_refused(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(InputError, match="selection.json"):
        Selection.load(saved)


def test_a_record_beyond_the_limit_of_other_files_is_read(saved):
    """As of more than 316,000 units."""
    units = [{"unit": f"{i:016x}", "volumes": ["v" * 70_000]} for i in range(1000)]
    Selection(Selection.load(saved).volumes, record(units=units)).save(saved)
    assert saved.with_suffix(".json").stat().st_size > JSON_LIMIT
    assert Selection.load(saved).record["units"] == units


def test_missing_files_are_named(tmp_path, saved):
    with pytest.raises(InputError, match=r"other.csv: there is no such selection. Give NAME.csv"):
        Selection.load(tmp_path / "other.csv")
    (tmp_path / "other.parts").mkdir()
    with pytest.raises(InputError, match=r"other.csv: .*not finished: run the same lim-gpu reduce again"):
        Selection.load(tmp_path / "other.csv")
    saved.unlink()
    with pytest.raises(InputError, match="selection.csv"):
        Selection.load(saved)


def test_a_csv_changed_by_hand_is_told_how_to_become_a_selection(saved, tmp_path):
    copy = tmp_path / "mine.csv"
    copy.write_text(saved.read_text())
    with pytest.raises(InputError, match=r"select ORIGINAL.csv --edits .*mine.csv -o edited.csv"):
        Selection.load(copy)
    saved.write_text(saved.read_text().replace("2.5,0", "2.5,1"))
    with pytest.raises(InputError, match=r"select .*selection.csv --edits my.csv -o edited.csv"):
        Selection.load(saved)


def test_another_csv_is_named_as_such(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"pairs\.csv: is no selection"):
        Selection.load(tmp_path / "pairs.csv")


def test_relative_path(tmp_path):
    assert relative_path(tmp_path / "slices", tmp_path / "out") == "../slices"
