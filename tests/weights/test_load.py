"""Checkpoints of every maker, synthesised: the same backbone comes out of each, to the last tensor; nothing runs."""

from __future__ import annotations

import json

import pytest
import torch

from checkpoints import FOREIGN, HEAD, fails, under
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.load import load_backbone


@pytest.mark.parametrize("source", FOREIGN)
def test_every_layout_gives_the_same_backbone(tmp_path, state, source):
    torch.save(FOREIGN[source](state), tmp_path / "c.ckpt")
    backbone = load_backbone(tmp_path / "c.ckpt")
    assert (backbone.name, backbone.channels, backbone.source) == ("resnet18", 3, source)
    assert list(backbone.state) == list(resnet("resnet18").state_dict())
    assert all(torch.equal(backbone.state[name], value) for name, value in state.items())
    assert backbone.preprocess["stated"] is False


def test_sparks_own_layout(tmp_path, state):
    torch.save(
        {"module": under("sparse_encoder.sp_cnn.", state) | {"densify_norms.0.weight": HEAD}}, tmp_path / "s.pth"
    )
    assert load_backbone(tmp_path / "s.pth").source == "SparK"


def test_what_a_maker_normalised_by_is_known(tmp_path, state):
    torch.save(FOREIGN["SwAV of Wolf et al."](state), tmp_path / "c.ckpt")
    assert load_backbone(tmp_path / "c.ckpt").preprocess["mean"] == [0.1806] * 3
    torch.save(FOREIGN["SparK"](state), tmp_path / "c.ckpt")
    assert load_backbone(tmp_path / "c.ckpt").preprocess["mean"] == [0.485, 0.456, 0.406]


def test_the_json_beside_says_how_images_were_made(tmp_path, state):
    torch.save(FOREIGN["lim-gpu"](state), tmp_path / "c.ckpt")
    (tmp_path / "c.ckpt.json").write_text(json.dumps({"preprocess": {"mean": [0.3], "std": [0.2]}}))
    assert load_backbone(tmp_path / "c.ckpt").preprocess == {"mean": [0.3], "std": [0.2]}


def test_a_resnet50_has_318_tensors(tmp_path):
    torch.save({"state_dict": under("model.", resnet("resnet50").state_dict())}, tmp_path / "c.ckpt")
    backbone = load_backbone(tmp_path / "c.ckpt", expected="resnet50")
    assert len(backbone.state) == 318
    assert sum(name.endswith("num_batches_tracked") for name in backbone.state) == 53


def test_one_channel_and_half_precision(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in resnet("resnet18", 1).state_dict().items()}
    torch.save(state, tmp_path / "c.pth")
    backbone = load_backbone(tmp_path / "c.pth")
    assert backbone.channels == 1
    assert backbone.state["conv1.weight"].dtype == torch.float32


def test_another_backbone_is_named_with_what_is_missing(tmp_path, state):
    torch.save(under("encoder.", state), tmp_path / "c.ckpt")
    words = ("holds resnet18, not resnet50", "missing", "layer1.0.bn3.bias", "of another shape", "--backbone resnet18")
    fails(tmp_path / "c.ckpt", *words, expected="resnet50")


def test_tensors_that_are_missing_or_unexpected_are_listed(tmp_path, state):
    broken = {name: value for name, value in state.items() if name != "layer4.1.bn2.running_var"}
    broken |= {"layer4.2.conv1.weight": HEAD, "bn1.weight": torch.ones(7)}
    torch.save({"state_dict": under("model.", broken)}, tmp_path / "c.ckpt")
    words = ("118 of 120", "missing 1: layer4.1.bn2.running_var", "unexpected 1: layer4.2.conv1.weight")
    fails(tmp_path / "c.ckpt", *words, "another shape 1: bn1.weight (7,)", "SwAV of Wolf et al.")


@pytest.mark.parametrize(
    ("content", "word"),
    [([1, 2], "list"), ({"epoch": 3}, "no tensor of a torchvision ResNet"), ({"a.b": HEAD}, "'encoder_q.'")],
)
def test_what_is_no_checkpoint(tmp_path, content, word):
    torch.save(content, tmp_path / "c.ckpt")
    fails(tmp_path / "c.ckpt", word)


def test_values_that_are_not_finite(tmp_path, state):
    torch.save(state | {"bn1.bias": torch.full((64,), torch.nan)}, tmp_path / "c.ckpt")
    fails(tmp_path / "c.ckpt", "bn1.bias", "not finite")
