"""A training reads its data's index and its selection once, whatever becomes of them: plan, views, batches."""

from __future__ import annotations

import pytest
from counted import count_opened

import lim_gpu
from lim_gpu.pretrain.run import pretrain
from pretrainings import arguments


@pytest.mark.parametrize("stream", [False, True])
def test_the_store_and_the_selection_are_read_once(store, tmp_path, monkeypatch, stream):
    with lim_gpu.SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=tmp_path / "half.csv")
    counts = count_opened(monkeypatch)
    options = arguments("moco", epochs=1, selection=tmp_path / "half.csv", stream=stream)
    pretrain(store, "moco", output=tmp_path / "run", **options)
    assert [counts[path] for path in (store / "store.json", tmp_path / "half.csv", tmp_path / "half.json")] == [1, 1, 1]
