"""HASH of a whole data set: hosts hash its volumes, and compare the hashes."""

from __future__ import annotations

import os

import numpy as np
import pytest

import lim_gpu
from lim_gpu.pruning.hashes import nearest_kept, rank_hashes
from lim_gpu.reduction import search
from lim_gpu.store.slices import SliceStore
from reductions import contents, cut_short
from stores import make_store


def test_hosts_compare_hashes_in_runs_of_equal_area(connected, monkeypatch):
    """Random hashes, and a walk of few bits a step, which has ties and chains."""
    monkeypatch.setattr(search, "AREA", 1 << 17)
    rng = np.random.default_rng(0)
    steps = np.uint64(1) << rng.integers(0, 64, 900, dtype=np.uint64)
    hashes = np.concatenate([rng.integers(0, 2**63, 600, dtype=np.uint64), np.bitwise_xor.accumulate(steps)])
    here, there = rank_hashes(hashes), rank_hashes(hashes, search.SearchOnHosts(1, 0))
    np.testing.assert_array_equal(there.dropped, here.dropped)
    np.testing.assert_array_equal(there.covered_by, here.covered_by)
    kept = here.keep(0.2)
    for found, expected in zip(
        nearest_kept(hashes, kept, search.SearchOnHosts(1, 0)), nearest_kept(hashes, kept), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [0, 1, 2, 700, 3000])
def test_runs_cover_all_queries_once_and_are_of_one_size(n, monkeypatch):
    monkeypatch.setattr(search, "AREA", 100_000)
    runs = search.runs_of(np.arange(n))
    assert [q for first, last in runs for q in range(first, last)] == list(range(n))
    areas = [sum(range(first, last)) for first, last in runs]
    assert max(areas) <= 100_000 + n
    assert all(area > 100_000 - n for area in areas[:-1])


def test_a_whole_data_set_is_hashed_volume_by_volume(connected, tmp_path, monkeypatch):
    slices = make_store(tmp_path)
    with SliceStore(slices) as store:
        cut_short(store, 1)
    here, there = (
        lim_gpu.reduce(
            slices, "hash", keep=0.4, scope="dataset", device="cpu", output=tmp_path / name / "s.csv", ray=ray
        )
        for name, ray in (("here", None), ("there", "auto"))
    )
    assert contents(tmp_path / "there" / "s.csv") == contents(tmp_path / "here" / "s.csv")
    assert there.record["failures"] == here.record["failures"] != []
    assert there.record["hosts"] == {os.uname().nodename: 4}


def test_a_data_set_that_was_hashed_in_part_is_hashed_on(connected, slices, tmp_path):
    how = {"keep": 0.4, "scope": "dataset", "device": "cpu"}
    lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "here" / "s.csv")
    lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "there" / "s.csv", shard=(1, 4))
    there = lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "there" / "s.csv", ray="auto")
    assert there.record["hosts"] == {os.uname().nodename: 3}
    assert contents(tmp_path / "there" / "s.csv") == contents(tmp_path / "here" / "s.csv")
