"""Shares of work that several programs do: all of it, once, and what comes out is what one program makes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("pydicom")

from hypothesis import given
from hypothesis import strategies as st

from lim_gpu.errors import UsageError
from lim_gpu.reduction.run import reduce
from lim_gpu.shard import Shard
from lim_gpu.store.slices import SliceStore
from reductions import RESULTS
from stores import make_sources, make_store


@given(st.integers(1, 40), st.integers(0, 100), st.booleans())
def test_the_shards_are_all_of_it_once_whether_counted_from_0_or_from_1(count, items, from_1):
    shares = [Shard.parse((i + from_1, count)).of(range(items)) for i in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "1", "1/0", "5/4", "-1/4", "1/4/2", "a/b", "1 / 4", "\uff11/4", "1.0/4"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="is not I/N"):
        Shard.parse(text)


def test_shares_in_python_hold_their_units_and_one_call_then_selects(tmp_path):
    with SliceStore(make_store(tmp_path)) as store:
        asked = {"keep": 0.3, "seed": 4}
        shares = [reduce(store, "random", **asked, output=tmp_path / "s.csv", shard=one) for one in [(0, 2), "1/2"]]
        assert not (tmp_path / "s.csv").exists()
        whole = reduce(store, "random", **asked)
        assert sorted(place for share in shares for place in share.kept()) == sorted(whole.kept())
        assert [len(share.volumes) for share in shares] == [2, 2]
        assert [share.record["shard"] for share in shares] == ["0/2", "1/2"]
        assert reduce(store, "random", **asked, output=tmp_path / "s.csv").kept() == whole.kept()
        assert len(reduce(store, "random", **asked, output=tmp_path / "s.csv", shard=(1, 2)).volumes) == 4  # it stands


@pytest.mark.parametrize(
    ("more", "said"), [({}, "Give that, too"), ({"ray": "local"}, "of the whole"), ({"shard": (3, 2)}, "is not I/N")]
)
def test_a_share_in_python_that_contradicts_itself_is_refused(tmp_path, more, said):
    with pytest.raises(UsageError, match=said):
        reduce(tmp_path, "all", **{"shard": (0, 2)} | more)


def lim_gpu(*arguments):
    return [sys.executable, "-m", "lim_gpu.cli", *map(str, arguments)]


def at_once(*commands):
    """Start all, wait for all; what each printed."""
    started = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in commands]
    printed = []
    for process in started:
        out, err = process.communicate()
        assert process.returncode == 0, err
        printed.append(out)
    return printed


def files_of(store):
    return {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*.h5"))}


def test_shards_of_a_reduction_give_the_selection_of_one_run(tmp_path):
    store = make_store(tmp_path)
    reduce = ["reduce", store, "--method", "mi", "--keep", "0.3", "--device", "cpu"]
    at_once(lim_gpu(*reduce, "-o", tmp_path / "one.csv"))
    sharded = [*reduce, "-o", tmp_path / "all.csv"]
    first, second = at_once(*(lim_gpu(*sharded, "--shard", f"{i}/3", "--json") for i in (0, 1)))
    assert json.loads(first)["units"] + json.loads(second)["units"] == 3  # of 4 volumes
    assert not (tmp_path / "all.csv").exists()
    (said,) = at_once(lim_gpu(*sharded, "--shard", "2/3"))
    assert "the same command without --shard selects" in said
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "all.parts").glob(RESULTS)}
    assert len(parts) == 4
    at_once(lim_gpu(*sharded))
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    (again,) = at_once(lim_gpu(*sharded, "--shard", "1/3", "--json"))
    assert json.loads(again)["counts"]["volumes"] == 4  # the selection stands


def test_shards_of_an_ingest_give_the_store_of_one_run(tmp_path):
    """They begin in a folder that is not there, with no key of identifiers."""
    sources = make_sources(tmp_path / "in")
    shard = ["ingest", sources, "-o", tmp_path / "all", "--workers", "1"]
    at_once(*(lim_gpu(*shard, "--shard", f"{i}/2") for i in (1, 2)))
    assert not (tmp_path / "all" / "store.json").exists()
    key = (tmp_path / "all.private" / "key").read_bytes()
    written = files_of(tmp_path / "all")
    (said,) = at_once(lim_gpu(*shard))
    assert f"{len(written)} of them from before" in said
    assert files_of(tmp_path / "all") == written
    assert (tmp_path / "all.private" / "key").read_bytes() == key
    (tmp_path / "one.private").mkdir(mode=0o700)
    (tmp_path / "one.private" / "key").write_bytes(key)
    at_once(lim_gpu("ingest", sources, "-o", tmp_path / "one"))
    assert files_of(tmp_path / "one") == written
    assert (tmp_path / "one" / "store.json").read_bytes() == (tmp_path / "all" / "store.json").read_bytes()


@pytest.mark.parametrize("whole", [["--write", "copy"], ["--kept-list", "kept.txt"], ["--ray", "local"]])
def test_what_is_of_the_whole_is_refused(tmp_path, whole):
    command = lim_gpu("reduce", tmp_path, "--method", "all", "--shard", "1/2", *whole)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{whole[0]} is of the whole" in done.stderr
