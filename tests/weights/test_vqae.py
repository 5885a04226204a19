"""vqae: the published number of parameters, the shapes of its halves, and a backbone like the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lim_gpu.errors import UsageError
from lim_gpu.weights.backbone import features, network
from lim_gpu.weights.names import VQAES
from lim_gpu.weights.vqae import SHAPES, Decoder, squeeze


@pytest.mark.parametrize(("channels", "expected"), [(1, 101_337_283), (3, 101_353_673)])
def test_the_parameters_are_counted(channels, expected):
    shape = SHAPES["vqae"]
    with torch.device("meta"):
        parts = [network("vqae", channels), squeeze(shape), nn.Embedding(512, shape.code), Decoder(shape, channels)]
    assert sum(p.numel() for part in parts for p in part.parameters()) == expected


def test_the_layers_of_the_table():
    with torch.device("meta"):
        encoder, image = network("vqae", 1), torch.empty(2, 1, 512, 512)
        found = encoder.maps(image)
        codes = squeeze(SHAPES["vqae"])(found)
        painted = Decoder(SHAPES["vqae"], 1)(codes)
    assert (found.shape, codes.shape, painted.shape) == ((2, 512, 128, 128), (2, 64, 128, 128), image.shape)
    names = [type(module).__name__ for module in encoder.modules() if not list(module.children())]
    residual = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert names == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3 + residual * 18 + ["LeakyReLU"]


def test_a_residual_block_adds_to_what_it_got():
    encoder = network("vqae-small", 1).eval()
    x = torch.randn(1, features("vqae-small"), 5, 5)
    block = encoder.residual[0]
    torch.testing.assert_close(block(x) - x, block.branch(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VQAES)
def test_features_are_as_long_as_announced(name):
    with torch.device("meta"):
        assert network(name, 1)(torch.empty(2, 1, 32, 24)).shape == (2, features(name))


def test_features_are_the_mean_of_the_map():
    encoder = network("vqae-small", 1).eval()
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(encoder(images), encoder.maps(images).mean((2, 3)))


def test_imagenet_weights_are_refused():
    with pytest.raises(UsageError, match="vqae has no ImageNet weights"):
        network("vqae", pretrained=True)
