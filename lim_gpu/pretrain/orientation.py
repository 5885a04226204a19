"""Rotation and flip (Gidaris et al. 2018; Tariq et al.): the network tells how a slice was turned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import ASPECT, SPREAD, Meter, Pretraining, spread
from lim_gpu.pretrain.presets import TURNS
from lim_gpu.weights.backbone import features

if TYPE_CHECKING:
    from lim_gpu.pretrain.resident import SliceBatch


class Orientation(Pretraining):
    """A backbone and one linear layer over the turns of the method: four rotations, or no flip and two.

    Crops are square and turns exact, so that no border or interpolation gives a turn away.
    """

    meters: ClassVar[Mapping[str, Meter]] = {
        "loss": Meter("nat", "cross-entropy of the turn; chance is ln 4 for rotation, ln 3 for flip"),
        "pretext_top1": Meter("share", "of the turns told; chance is 1/4 for rotation, 1/3 for flip"),
        "softmax_twice": Meter(
            "nat",
            "Tariq et al.'s, of a softmax taken twice; its floor is ln(1 + (turns - 1) / e): 0.744, 0.551",
        ),
    } | SPREAD

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__(config, slices)
        self.head = nn.Linear(features(config.backbone), TURNS[config.method])

    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """[turned images (B, C, S, S), their turns (B,)]."""
        part, method = self.config.orientation, self.config.method
        images = augment.random_resized_crop(batch.pixels, batch.sizes, part.size, part.scale, ASPECT, generator)
        turns = torch.randint(TURNS[method], (len(images),), generator=generator).to(images.device, non_blocking=True)
        turned = rotated(images, turns) if method == "rotation" else flipped(images, turns)
        return [self.normalized(turned), turns]

    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the turns."""
        images, turns = views
        found = self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):
            logits = functional.linear(found.float(), self.head.weight, self.head.bias)
            seen = logits.detach()
            meters = {
                "pretext_top1": (seen.argmax(1) == turns).float().mean(),
                "softmax_twice": functional.cross_entropy(seen.softmax(1), turns),
            }
            unit = functional.normalize(found.detach().float(), dim=1)
            return {"loss": functional.cross_entropy(logits, turns)} | meters | spread(unit)


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Square images (B, C, S, S), each turned counter-clockwise by 90 degrees `turns` (B,) times, 0 to 3."""
    return _chosen([torch.rot90(images, quarter, (-2, -1)) for quarter in range(4)], turns)


def flipped(images: Tensor, turns: Tensor) -> Tensor:
    """Images (B, C, H, W) as they are (0), mirrored left to right (1) or top to bottom (2)."""
    return _chosen([images, images.flip(-1), images.flip(-2)], turns)


def _chosen(ways: list[Tensor], turns: Tensor) -> Tensor:
    """Of each image that of its `ways` (turns, each (B, C, H, W)) which `turns` (B,) names; nothing waits."""
    return torch.stack(ways)[turns, torch.arange(len(turns), device=turns.device)]
