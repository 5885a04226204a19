"""timm's networks as backbones, under "timm:NAME": made, and found in checkpoints under timm's own names."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lim_gpu.errors import InputError, UsageError
from lim_gpu.weights.names import TIMM

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = ("encoder.", "", "module.", "model.", "backbone.")  # in a checkpoint, before timm's names
SHOWN = 6  # names in an error


def timm_network(name: str, channels: int = 3, *, pretrained: bool = False) -> torch.nn.Module:
    """timm's network without its last layer: (B, channels, H, W) to features (B, `timm_features(name)`).

    Random weights from torch's global generator, or those that timm downloads. Raises UsageError for an unknown name,
    InputError for weights that cannot be had.
    """
    import timm

    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        near = [TIMM + known for known in get_close_matches(plain, timm.list_models(), SHOWN)]
        meant = f"Did you mean {', '.join(near)}? " if near else ""
        raise UsageError(f"`backbone` {name!r}: timm has no such network. {meant}Take one of timm.list_models()")
    try:
        model: torch.nn.Module = timm.create_model(plain, pretrained=pretrained, num_classes=0, in_chans=channels)
    except Exception as error:  # of a network that is not there, and of weights that timm has not
        if not pretrained:
            cause = f"{name}: cannot be made with {channels} channels ({type(error).__name__})"
            raise UsageError(f"{cause}. Give another --backbone") from None
        cause = f"the weights of {name} cannot be had ({type(error).__name__})"
        raise InputError(f"{cause}. Put them into the cache of huggingface_hub, or give --checkpoint FILE") from None
    return model


@functools.cache
def timm_features(name: str) -> int:
    """Length of the feature vector of a network of timm. Raises as `timm_network`."""
    with torch.device("meta"):
        model: Any = timm_network(name)
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def check_sides(name: str, channels: int, sides: Iterable[int]) -> None:
    """Raise UsageError unless the network takes square images of all these sides, in pixels. Computes nothing."""
    with torch.device("meta"), torch.no_grad():
        model = timm_network(name, channels).eval()
        for side in sorted(sides):
            try:
                model(torch.empty(1, channels, side, side))
            except Exception as error:  # of one size alone, as many transformers are
                cause = str(error).split("\n", 1)[0].rstrip(".") or type(error).__name__
                raise UsageError(f"{name}: takes no images of {side} pixels ({cause}). Give another size") from None


def timm_classifier(name: str) -> str:
    """The name of the last layer of a network of timm, such as "fc". Raises as `timm_network`."""
    with torch.device("meta"):
        config: Any = timm_network(name).pretrained_cfg
    return str(config["classifier"])


def timm_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that timm's weights were trained on."""
    with torch.device("meta"):
        config: Any = timm_network(name).pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def timm_state(path: Path, content: dict[str, Any], name: str) -> tuple[dict[str, Tensor], int, str]:
    """The state of the network `name` in what a checkpoint holds, its channels, and the prefix before its names.

    Raises InputError unless every tensor of the network is there, in its shape.
    """
    tensors = _tensors(content)
    best: tuple[int, str, int] | None = None
    for prefix in PREFIXES:
        for channels in (3, 1):
            fit = sum(shape == _shape(tensors, prefix + key) for key, shape in _shapes(name, channels).items())
            best = max(best or (-1, "", 3), (fit, prefix, channels), key=lambda one: one[0])
    assert best is not None
    fit, prefix, channels = best
    shapes = _shapes(name, channels)
    if fit < len(shapes):
        absent = [key for key, shape in shapes.items() if shape != _shape(tensors, prefix + key)]
        told = f"{fit} of {len(shapes)} tensors of {name} match; not {', '.join(absent[:SHOWN])}"
        raise InputError(f"{path}: {told}. Give a checkpoint of this network, or another --backbone")
    return {key: tensors[prefix + key] for key in shapes}, channels, prefix


def _tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    inner = content.get("state_dict", content.get("model", content))
    entries = inner if isinstance(inner, dict) else content
    return {str(key): value for key, value in entries.items() if isinstance(value, torch.Tensor)}


def _shape(tensors: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None


@functools.cache
def _shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in timm_network(name, channels).state_dict().items()}
