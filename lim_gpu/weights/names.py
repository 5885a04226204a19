"""The backbones by name, without torch: torchvision's ResNets and ResNeXts, vqae's encoder; timm's after a prefix."""

from __future__ import annotations

RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
VQAES = ("vqae", "vqae-small")  # the second for tests and CPUs
BACKBONES = (*RESNETS, *VQAES)
TIMM = "timm:"  # before a name of timm


def is_timm(name: str) -> bool:
    """Whether a name is one of timm's."""
    return name.startswith(TIMM)
