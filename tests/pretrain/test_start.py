"""A pre-training that begins with a checkpoint: its backbone and no more, told in plan and fingerprint."""

from __future__ import annotations

import pytest
import torch

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.plan import make_plan
from lim_gpu.pretrain.start import begin
from lim_gpu.pretrain.training import build_method
from lim_gpu.selection.selected import open_selected
from lim_gpu.weights.backbone import resnet
from pretrainings import TINY


def plan(store, method="moco", init=None, **options):
    settings = TINY[method] | {"backbone": "resnet18", "batch_size": 8, "epochs": 1} | options
    with open_selected(store) as slices:
        return make_plan(resolve(method, overrides=settings), slices, Intensity(), init)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(7)
    state = resnet("resnet18").state_dict()
    torch.save({"state_dict": {f"encoder.{name}": value for name, value in state.items()}}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt", state


@pytest.mark.parametrize("method", ["moco", "spark", "swav"])
def test_the_encoder_begins_with_the_checkpoint(store, checkpoint, method):
    path, state = checkpoint
    made = plan(store, method, str(path))
    module = build_method(made)
    begin(module, made)
    encoders = [module.encoder, *([module.key_encoder] if method == "moco" else [])]
    for encoder in encoders:
        assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())


def test_plan_and_fingerprint_tell_where_it_begins(store, checkpoint):
    path, _ = checkpoint
    random, begun, imagenet = (plan(store, init=init) for init in (None, str(path), "imagenet"))
    assert len({made.fingerprint for made in (random, begun, imagenet)}) == 3
    assert "init" not in random.data  # runs without keep their fingerprint
    assert f"begins with: {path}" in begun.lines()
    assert "begins with: random weights" in random.lines()


def test_what_cannot_be_begun_with_is_one_line(store, checkpoint, tmp_path):
    path, _ = checkpoint
    (tmp_path / "README.md").write_text("no weights")
    with pytest.raises(InputError, match="is no checkpoint"):
        plan(store, init=str(tmp_path / "README.md"))
    made = plan(store, init=str(path), channels=1, mean=(0.18,), std=(0.19,))
    with pytest.raises(UsageError, match="has 3 channels. Give --channels 3"):
        begin(build_method(made), made)
    made = plan(store, init=str(path))
    torch.save({}, path)
    with pytest.raises(InputError, match="was replaced meanwhile"):
        begin(build_method(made), made)
