"""The maps of backbones, against the encoders of segmentation-models-pytorch."""

from __future__ import annotations

import pytest
import torch

from lim_gpu.errors import InputError, UsageError
from lim_gpu.weights.backbone import features, network
from lim_gpu.weights.maps import feature_maps
from lim_gpu.weights.timm_models import timm_state

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
TIMM = "timm:legacy_seresnext50_32x4d"


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_the_maps_are_those_of_segmentation_models_pytorch(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    own = network(name).eval()
    other = smp.encoders.get_encoder(name, weights=None).eval()
    other.load_state_dict(own.state_dict() | {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    maps, widths = feature_maps(name, own, 3)
    assert (3, *widths) == tuple(other.out_channels)
    with torch.no_grad():
        pairs = list(zip(maps(own, IMAGES), other(IMAGES)[1:], strict=True))
    assert len(pairs) == 5
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_the_maps_of_timm_are_those_of_its_features_only():
    import timm

    own = network(TIMM).eval()
    other = timm.create_model(TIMM.removeprefix("timm:"), features_only=True, pretrained=False).eval()
    other.load_state_dict(own.state_dict(), strict=False)
    maps, widths = feature_maps(TIMM, own, 3)
    assert widths == (64, 256, 512, 1024, 2048)
    with torch.no_grad():
        for one, two in zip(maps(own, IMAGES), other(IMAGES), strict=True):
            torch.testing.assert_close(one, two)


@torch.no_grad()
def test_the_maps_of_vqae_are_its_encoders_own():
    own = network("vqae-small", 3).eval()
    maps, widths = feature_maps("vqae-small", own, 3)
    half, quarter = maps(own, IMAGES)
    assert torch.equal(half, own.e1(IMAGES))
    assert torch.equal(quarter, own.maps(IMAGES))
    assert widths == (16, 32)
    assert torch.equal(quarter.mean((2, 3)), own(IMAGES))


def test_a_network_keeps_its_mode_and_its_hooks_to_itself():
    own = network("resnet18").train()
    before = own.state_dict()["bn1.running_mean"].clone()
    maps, _ = feature_maps("resnet18", own, 3)
    assert own.training
    assert torch.equal(own.state_dict()["bn1.running_mean"], before)
    maps(own, IMAGES)
    assert not any(module._forward_hooks for module in own.modules())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("timm:vit_tiny_patch16_224", "no maps of any size"), ("timm:convnext_atto", "16, 8, 4, 2 pixels for 64")],
)
def test_a_network_without_a_pyramid_is_refused_with_the_reason(name, reason):
    with pytest.raises(UsageError, match=reason):
        feature_maps(name, network(name), 3)


def test_a_network_of_timm_gives_as_many_features_as_are_said():
    with torch.no_grad():
        assert network("timm:mobilenetv3_small_050").eval()(IMAGES).shape == (2, features("timm:mobilenetv3_small_050"))
    with pytest.raises(UsageError, match="Did you mean .*timm:resnet50"):
        features("timm:resnett50")


def test_a_network_of_timm_is_found_in_a_checkpoint_or_what_is_missing_is_named(tmp_path):
    name = "timm:mobilenetv3_small_050"
    state = network(name, 1).state_dict()
    content = {"state_dict": {f"encoder.{key}": value for key, value in state.items()} | {"head.weight": torch.ones(2)}}
    found, channels, prefix = timm_state(tmp_path, content, name)
    assert (channels, prefix) == (1, "encoder.")
    assert found.keys() == state.keys()
    assert torch.equal(found["conv_stem.weight"], state["conv_stem.weight"])
    del content["state_dict"]["encoder.conv_stem.weight"]
    with pytest.raises(InputError, match="conv_stem"):
        timm_state(tmp_path, content, name)
    with pytest.raises(InputError, match="timm:resnet18"):
        timm_state(tmp_path, content, "timm:resnet18")


def test_weights_that_timm_cannot_get_are_an_error_with_a_remedy(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError, match="huggingface_hub"):
        network(TIMM, pretrained=True)
