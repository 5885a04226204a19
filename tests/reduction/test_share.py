"""Several engines share the units and each reads ahead; neither changes what is selected."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import chain

import pytest
import torch

import lim_gpu
from lim_gpu.errors import LimGpuError
from lim_gpu.reduction.choice import choose
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.reader import Reader
from lim_gpu.store.slices import SliceStore
from reductions import cut_short


@pytest.fixture
def several_engines(monkeypatch):
    monkeypatch.setattr("lim_gpu.similarity.resolve_devices", lambda device: [torch.device("cpu")] * 3)


def same_but_for_time_and_device(record):
    units = [{name: unit[name] for name in unit if name not in ("device", "seconds")} for unit in record["units"]]
    return {name: record[name] for name in record if name not in ("device", "seconds", "store")} | {"units": units}


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


def test_the_record_names_every_device_that_worked(store, several_engines, monkeypatch):
    monkeypatch.setattr("lim_gpu.reduction.share.choose", lambda *given: replace(choose(*given), device=next(names)))
    names = iter(["cuda:1", "cuda:0", "cuda:1", "cuda:0"])
    assert lim_gpu.reduce(store, "hash", device="cuda").record["device"] == "cuda:0, cuda:1"


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("scope", ["volume", "dataset"])
@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_reading_ahead_changes_nothing_even_beside_a_cut_volume(copied, tmp_path, monkeypatch, method, scope, engines):
    with SliceStore(copied) as store:
        bad = cut_short(store, 1)
        monkeypatch.setattr(StoredMatrix, "expect", lambda self, volumes: None)
        plain = lim_gpu.reduce(store, method, keep=0.3, scope=scope, device="cpu", output=tmp_path / "plain.csv")
        monkeypatch.undo()
        for name in ("BLOCK_BYTES", "CACHED_BYTES"):
            monkeypatch.setattr(f"lim_gpu.reduction.reader.{name}", 2 * 3 * 48 * 40)  # three slices a piece
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
    load, compute = Reader._load, StoredMatrix.compute

    def noted(self, piece):
        begun[piece.volume.key].set()
        return load(self, piece)

    def compute_beside_reading(self, volumes):
        assert begun[after[volumes[0].key]].wait(60)
        return compute(self, volumes)

    monkeypatch.setattr(Reader, "_load", noted)
    monkeypatch.setattr(StoredMatrix, "compute", compute_beside_reading)
    assert len(lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu").volumes) == 4
