"""The feature maps of a backbone, each of half the side of the one before it: what a decoder takes.

Which modules put them out is all that a kind of network has to say; channels and sides are found by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lim_gpu.errors import UsageError
from lim_gpu.weights.names import VQAES, is_timm

RESNET = ("relu", "layer1", "layer2", "layer3", "layer4")  # torchvision's, at strides 2, 4, 8, 16 and 32
VQAE = ("e1", "residual")  # at strides 2 and 4: the last map of each side
TRIED = 64  # pixels a side


def stages_of(name: str, encoder: torch.nn.Module) -> tuple[str, ...]:
    """The modules of a backbone that put out its maps, from the largest. Raises UsageError for one without any."""
    if not is_timm(name):
        return VQAE if name in VQAES else RESNET
    information: Any = getattr(encoder, "feature_info", None) or ()
    stages = tuple(str(one["module"]) for one in information)
    if not stages:
        raise UsageError(f"{name}: names no feature maps, from which a decoder could begin. Give another --backbone")
    return stages


class FeatureMaps:
    """Calls a network and gives what its modules `stages` put out: (B, C, H, W) to a list of maps.

    The network is an argument, so that whoever holds this and it names its parameters once.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)

    def __call__(self, encoder: torch.nn.Module, images: Tensor) -> list[Tensor]:
        """The maps of images, from the largest."""
        found: dict[str, Tensor] = {}

        def keep(name: str, _module: object, _inputs: object, output: Tensor) -> None:
            found[name] = output

        hooks = [encoder.get_submodule(name).register_forward_hook(partial(keep, name)) for name in self.stages]
        try:
            encoder(images)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[name] for name in self.stages]


def feature_maps(name: str, encoder: torch.nn.Module, channels: int) -> tuple[FeatureMaps, tuple[int, ...]]:
    """What gives the maps of a backbone, and their channels. Raises UsageError where their sides do not halve."""
    maps = FeatureMaps(stages_of(name, encoder))
    training = encoder.training
    try:
        with torch.no_grad():
            found = maps(encoder.eval(), torch.zeros(1, channels, TRIED, TRIED))
    except Exception as error:  # of a network that takes one size alone, or puts out no maps
        raise UsageError(
            f"{name}: gives no maps of any size ({type(error).__name__}). Give another --backbone"
        ) from None
    encoder.train(training)
    sides = [one.shape[-1] for one in found]
    if sides != [TRIED >> place for place in range(1, len(found) + 1)]:
        told = f"maps of {', '.join(map(str, sides))} pixels for {TRIED} are no pyramid that a U-Net takes"
        raise UsageError(f"{name}: {told}. Give another --backbone")
    return maps, tuple(one.shape[1] for one in found)
