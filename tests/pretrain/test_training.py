"""A training as a whole: what it reads, and that every number that it writes is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import lim_gpu
from counted import count_opened
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.plan import Plan
from lim_gpu.pretrain.presets import METHODS
from lim_gpu.pretrain.run import pretrain
from lim_gpu.pretrain.training import build_method, build_trainer
from pretrainings import arguments, rows


def test_no_step_sends_the_queue_of_the_first_process_to_the_others(monkeypatch):
    """33.5 MB of MoCo's keys; they are equal everywhere, because a push gathers from all."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"):
        monkeypatch.setenv(name, "0")
    plan = Plan(resolve("moco"), Path("slices"), None, Intensity(), 2000, 4, {})
    trainer = build_trainer(plan, torch.device("cpu"), "32-true", [])
    assert trainer.world_size == 2
    assert trainer.strategy._ddp_kwargs["broadcast_buffers"] is False


@pytest.mark.parametrize("method", ["swav", "moco", "spark"])
def test_on_a_gpu_weights_are_laid_out_as_its_convolutions_read_them(method):
    plan = Plan(resolve(method, overrides={"backbone": "resnet18"}), Path("slices"), None, Intensity(), 2000, 4, {})
    for place, layout in (("cuda", torch.channels_last), ("cpu", torch.contiguous_format)):
        weights = [p for p in build_method(plan, torch.device(place)).parameters() if p.ndim == 4]
        assert len(weights) >= 20
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)


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
    slices = 31 if method == "next-slice" else 32  # of 35, four of which are the last of a volume
    one_stage = {"reconstruct.shares": (0.2,)} if method == "masked" else {}
    options = arguments(method, epochs=1, batch_size=slices, probe=tmp_path / "probe", overrides=one_stage)
    pretrain(store, method, output=tmp_path / "run", **options)
    (step,) = rows(tmp_path / "run")
    explained = json.loads((tmp_path / "run" / "config.json").read_text())["meters"]
    assert set(explained) == set(step) - {"epoch", "step"}
    for name, about in explained.items():
        assert set(about) == {"unit", "meaning"}, name
        assert about["meaning"], name
        if about["unit"] == "share":
            assert 0 <= step[name] <= 1, name
