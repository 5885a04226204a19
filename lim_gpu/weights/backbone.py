"""The networks that are trained, torchvision's ResNets without their last layer and vqae's encoder, and where."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import InputError, UsageError, unknown
from lim_gpu.weights import vqae
from lim_gpu.weights.names import BACKBONES, RESNETS, VQAES, is_timm
from lim_gpu.weights.timm_models import timm_features, timm_network


def resnet(name: str = "resnet50", channels: int = 3, *, pretrained: bool = False) -> torch.nn.Module:
    """A torchvision ResNet whose `fc` passes its input on: (B, channels, H, W) to features (B, `features(name)`).

    Its state has torchvision's own names without `fc.`: 318 tensors for resnet50. Random weights from torch's global
    generator, or with `pretrained` ImageNet's (IMAGENET1K_V1, which every name has). With `channels=1` the first
    convolution is the sum over its three input channels: the same features as for grey replicated three times.
    Raises UsageError for an unknown name or number of channels, InputError for weights that cannot be had.
    """
    if channels not in (1, 3):
        raise UsageError(f"channels {channels} are not possible. Give 1 (grey) or 3 (grey replicated)")
    model = _torchvision(name)
    if pretrained:
        _load_imagenet(model, name)
    model.fc = torch.nn.Identity()
    if channels == 1:
        model.conv1.weight = torch.nn.Parameter(model.conv1.weight.detach().sum(dim=1, keepdim=True))
        model.conv1.in_channels = 1
    return model


def network(name: str = "resnet50", channels: int = 3, *, pretrained: bool = False) -> torch.nn.Module:
    """The backbone `name`: (B, channels, H, W) to features (B, `features(name)`). Raises as `resnet`.

    "timm:NAME" is timm's network without its last layer. vqae's encoder takes sides that are multiples of 4, and has no
    ImageNet weights; its one channel is no sum of three.
    """
    if is_timm(name):
        return timm_network(name, channels, pretrained=pretrained)
    if name not in VQAES:
        return resnet(name, channels, pretrained=pretrained)
    if pretrained:
        raise UsageError(f"{name} has no ImageNet weights. Begin with random ones, or with a checkpoint")
    return vqae.Encoder(vqae.SHAPES[name], channels)


def features(name: str) -> int:
    """Length of the feature vector: 512 for resnet18, resnet34 and vqae, 2048 for other ResNets."""
    if is_timm(name):
        return timm_features(name)
    if name in VQAES:
        return vqae.SHAPES[name].width
    with torch.device("meta"):
        return int(_torchvision(name).fc.in_features)


def _torchvision(name: str) -> Any:
    from torchvision import models

    if name not in RESNETS:
        raise unknown("`backbone`", name, BACKBONES)
    return models.get_model(name, weights=None)


def _load_imagenet(model: torch.nn.Module, name: str) -> None:
    from lim_gpu.weights.states import imagenet_state

    try:
        model.load_state_dict(imagenet_state(name, "begin without them"))
    except RuntimeError:  # torch lists every tensor
        raise InputError(f"the ImageNet weights in torch's cache are not those of {name}. Remove that file") from None


def has_bfloat16(place: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself; on a CPU it is not what training chooses by itself."""
    return place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def training_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1" means.

    local_rank: under torchrun each process has the GPU of that number. Training needs no CuPy. Raises NoGpuError for a
    GPU that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    named = name.replace("auto", "cuda") if local_rank is None else f"cuda:{local_rank}"
    check_gpu(named, gpus)
    return torch.device("cuda", torch.device(named).index or 0)
