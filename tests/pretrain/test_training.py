"""A training as a whole: what it reads, and that every number that it writes is explained."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import lim_gpu
from counted import count_opened
from lim_gpu.pretrain.presets import METHODS
from lim_gpu.pretrain.run import pretrain
from pretrainings import arguments, rows


@pytest.mark.parametrize("stream", [False, True])
def test_the_store_and_the_selection_are_read_once_for_plan_views_and_batches(store, tmp_path, monkeypatch, stream):
    with lim_gpu.SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=tmp_path / "half.csv")
    counts = count_opened(monkeypatch)
    options = arguments("moco", epochs=1, selection=tmp_path / "half.csv", stream=stream)
    pretrain(store, "moco", output=tmp_path / "run", **options)
    assert [counts[path] for path in (store / "store.json", tmp_path / "half.csv", tmp_path / "half.json")] == [1, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_step_is_explained_and_nothing_else_is(store, tmp_path, method):
    for level in (20, 220):
        (tmp_path / "probe" / str(level)).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (32, 32), level + i).save(tmp_path / "probe" / str(level) / f"{i}.png")
    options = arguments(method, epochs=1, batch_size=32, probe=tmp_path / "probe")
    pretrain(store, method, output=tmp_path / "run", **options)
    (step,) = rows(tmp_path / "run")
    explained = json.loads((tmp_path / "run" / "config.json").read_text())["meters"]
    assert set(explained) == set(step) - {"epoch", "step"}
    for name, about in explained.items():
        assert set(about) == {"unit", "meaning"}, name
        assert about["meaning"], name
        if about["unit"] == "share":
            assert 0 <= step[name] <= 1, name
