"""A call of reduce: the store and intensity it takes, the files it writes, the record it leaves."""

from __future__ import annotations

import json

import pytest

import lim_gpu
from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.parts import load_part
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from reductions import kept_of


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
    assert load_part(tmp_path / "s.parts", store.volumes[0].key).matrix["png"]


def test_a_path_and_the_name_of_a_window_are_taken(store_path, tmp_path):
    named = lim_gpu.reduce(str(store_path), "hash", keep=0.4, intensity="40,400", output=tmp_path / "s.csv")
    with SliceStore(store_path) as store:
        opened = lim_gpu.reduce(store, "hash", keep=0.4, intensity=Intensity.parse(window="40,400"))
    assert named.kept() == opened.kept()
    assert named.record["parameters"] == opened.record["parameters"]
    assert named.path == tmp_path / "s.csv"
    assert named.store_path.resolve() == store_path.resolve()
