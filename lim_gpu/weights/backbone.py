"""The networks that are trained, torchvision's ResNets without their last layer, and where they are trained."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.errors import InputError, NoGpuError, UsageError, unknown
from lim_gpu.weights.names import RESNETS


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


def features(name: str) -> int:
    """Length of the feature vector: 512 for resnet18 and resnet34, 2048 for the others. Raises as `resnet`."""
    with torch.device("meta"):
        return int(_torchvision(name).fc.in_features)


def _torchvision(name: str) -> Any:
    from torchvision import models

    if name not in RESNETS:
        raise unknown("`backbone`", name, RESNETS)
    return models.get_model(name, weights=None)


def _load_imagenet(model: torch.nn.Module, name: str) -> None:
    from lim_gpu.similarity.deepnet import imagenet_state

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
    if not gpus:
        raise NoGpuError(f"device {name}: no usable NVIDIA GPU. Use --device cpu, or see lim-gpu doctor")
    index = torch.device(name.replace("auto", "cuda")).index or 0 if local_rank is None else local_rank
    if index >= gpus:
        raise NoGpuError(f"device {name}: there are {gpus} GPUs, from cuda:0. Choose another")
    return torch.device("cuda", index)
