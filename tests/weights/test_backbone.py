"""The backbones: torchvision's names, one channel or three, and weights that cannot be had."""

from __future__ import annotations

import re
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from lim_gpu.errors import InputError, NoGpuError, UsageError
from lim_gpu.weights import backbone
from lim_gpu.weights.names import RESNETS


def test_resnet50_has_torchvisions_318_tensors():
    expected = {name: tensor for name, tensor in models.resnet50().state_dict().items() if not name.startswith("fc.")}
    state = backbone.resnet().state_dict()
    assert len(state) == 318
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


@pytest.mark.parametrize(("name", "length"), [("resnet18", 512), ("resnet34", 512), ("resnext50_32x4d", 2048)])
def test_features_are_as_long_as_announced(name, length):
    assert backbone.features(name) == length
    with torch.no_grad():
        assert backbone.resnet(name).eval()(torch.rand(2, 3, 64, 64)).shape == (2, length)


def test_every_name_can_be_built():
    known = [name for name in models.list_models(module=models) if re.match("(wide_)?resne[tx]", name)]
    assert sorted(RESNETS) == sorted(known)
    for name in RESNETS:
        with torch.device("meta"):
            assert isinstance(backbone.resnet(name).fc, torch.nn.Identity)


def test_one_channel_equals_grey_replicated():
    torch.manual_seed(0)
    three = backbone.resnet("resnet18").eval()
    torch.manual_seed(0)
    one = backbone.resnet("resnet18", channels=1).eval()
    assert one.conv1.weight.shape == (64, 1, 7, 7)
    assert len(one.state_dict()) == len(three.state_dict())
    grey = torch.randn(2, 1, 96, 96)
    with torch.no_grad():
        expected = three(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(one(grey), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1, "features that are all alike prove nothing"


@pytest.mark.parametrize("name", ["resnet51", "alexnet", "resnet50_quantized", ""])
def test_an_unknown_name_is_refused_with_those_known(name):
    with pytest.raises(UsageError, match=r"^`backbone` .* is unknown. .*Give one of .*resnet18.*resnet50") as error:
        backbone.resnet(name)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="unknown"):
        backbone.features(name)


def test_two_channels_are_refused():
    with pytest.raises(UsageError, match="channels 2 .* Give 1"):
        backbone.resnet("resnet18", channels=2)


def test_pretrained_without_a_network_says_where_to_put_the_file(tmp_path, monkeypatch):
    def unreachable(*_arguments, **_options):
        raise URLError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"https://.*resnet18-f37072fd\.pth into .*checkpoints, or begin") as error:
        backbone.resnet("resnet18", pretrained=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cached", ["resnet18", "resnet34"])
def test_pretrained_takes_the_cached_file_or_refuses_a_foreign_one(tmp_path, monkeypatch, cached):
    weights = models.get_model(cached).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(weights, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    if cached == "resnet18":
        state = backbone.resnet("resnet18", pretrained=True).state_dict()
        assert all(torch.equal(state[name], weights[name]) for name in state)
    else:
        with pytest.raises(InputError, match=r"cache are not those of resnet18. Remove"):
            backbone.resnet("resnet18", pretrained=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    assert backbone.training_device("auto") == torch.device("cpu")
    for name, rank in (("cuda", None), ("cuda:3", None), ("cuda", 1)):
        with pytest.raises(NoGpuError, match=name):
            backbone.training_device(name, rank)
