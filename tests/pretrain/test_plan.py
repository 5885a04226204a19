"""The plan: counted from the store and the selection, and refused when it cannot be carried out."""

from __future__ import annotations

import pytest

import lim_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.monitor import warnings_of
from lim_gpu.pretrain.plan import ALGORITHM, duration, make_plan
from lim_gpu.selection.selected import open_selected
from lim_gpu.store.slices import SliceStore
from volumes import pixels, write_store


def plan_of(store, selection=None, method="swav", intensity=None, **overrides):
    config = resolve(method, overrides={"batch_size": 8, "epochs": 20} | overrides)
    with open_selected(store, selection) as slices:
        return make_plan(config, slices, intensity or Intensity())


@pytest.fixture(scope="module")
def selection(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("selection") / "half.csv"
    with SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=path)
    return path


def test_steps_and_rates(store):
    plan = plan_of(store, warmup_epochs=2)
    assert (plan.slices, plan.volumes, plan.steps_per_epoch, plan.total_steps) == (35, 4, 4, 80)
    rates = plan.rates()
    assert rates["first"] == 0
    assert rates["peak"] == plan.config.lr
    assert rates["last"] < rates["peak"] / 50
    text = "\n".join(plan.lines())
    assert "queue: 32 embeddings (of 3,840: whole batches, at most 1 x the slices)" in text
    assert plan.values()["queue"] == 32
    for part in ("35 slices of 4 volumes", "20 epochs of 4 steps of 8 slices: 80 steps", "warm-up 8 steps", "3 slices"):
        assert part in text


def test_a_selection_counts_what_it_keeps(store, selection):
    plan = plan_of(store, selection)
    assert plan.slices == 19  # ceil of half of 14, 9, 11 and 1
    assert plan.fingerprint != plan_of(store).fingerprint


def test_the_fingerprint_follows_all_that_changes_the_result(store, selection):
    prints = [
        plan_of(store).fingerprint,
        plan_of(store, lr=0.1).fingerprint,
        plan_of(store, seed=1).fingerprint,
        plan_of(store, intensity=Intensity.parse(window="lung")).fingerprint,
        plan_of(store, selection).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert plan_of(store).fingerprint == prints[0]


def test_a_run_of_a_version_that_knew_less_is_this_one_where_that_changes_nothing(store, selection):
    plan = plan_of(store, method="moco")
    older = plan.config.to_dict()
    del older["moco"]["soft_hash_bits"], older["strength"]
    record = {"config": older, "fingerprint": fingerprint([ALGORITHM, older, plan.data])}
    assert plan.is_of(record)
    assert plan.is_of({"config": plan.config.to_dict(), "fingerprint": plan.fingerprint})
    for other in (plan_of(store, method="moco", **{"moco.soft_hash_bits": 6}), plan_of(store, selection, "moco")):
        assert not other.is_of(record)
    assert not plan.is_of(record | {"fingerprint": fingerprint([ALGORITHM - 1, older, plan.data])})
    newer = plan.config.to_dict() | {"dreams": 1}
    assert not plan.is_of({"config": newer, "fingerprint": fingerprint([ALGORITHM, newer, plan.data])})
    assert not plan.is_of({})


def test_a_batch_larger_than_the_set(store, selection):
    with pytest.raises(UsageError, match="--batch-size 20 is more than the 19 slices of .*half.csv. Give a smaller"):
        plan_of(store, selection, batch_size=20)


def test_an_empty_selection(tmp_path, store, selection):
    chosen = lim_gpu.selection.Selection.load(selection)
    for volume in chosen.volumes:
        volume.kept[:] = False
    chosen.save(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"none.csv: keeps no slice"):
        plan_of(store, tmp_path / "none.csv")


def test_processes_share_the_batch(store, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for processes, batch in (("3", 8), ("8", 8)):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(UsageError, match=f"does not divide among {processes} processes"):
            plan_of(store, batch_size=batch)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert plan_of(store).total_steps == 80


def test_a_window_on_values_that_are_no_hu(tmp_path, store):
    lung = Intensity.parse(window="lung")
    mr = write_store(tmp_path / "s", [pixels(9)], modality="MR", unit="stored")
    with pytest.raises(UsageError, match=r"no HU in 1 volume \(MR\)"):
        plan_of(mr, intensity=lung)
    assert warnings_of(plan_of(store, intensity=lung))[0].startswith("grey values, not HU, in 4 volumes:")
    assert not warnings_of(plan_of(store))[0].startswith("4 volumes")


def test_durations():
    assert [duration(s) for s in (0, 59.6, 3723, 90_000)] == ["0:00:00", "0:01:00", "1:02:03", "25:00:00"]


def test_a_store_of_both_kinds_remembers_what_was_done_to_which(tmp_path):
    path = write_store(tmp_path / "s", [pixels(9), pixels(9, dtype="uint8")])
    body = Intensity(body=True)
    told = plan_of(path, intensity=body).values()["intensities"]
    assert told == [body.describe() | {"volumes": ["0" * 16]}, {"mapping": "as stored", "volumes": ["0" * 15 + "1"]}]
    hu = write_store(tmp_path / "hu", [pixels(9)])
    assert "intensities" not in plan_of(hu, intensity=body).values()
