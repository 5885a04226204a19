"""One run of a segmentation: a U-Net trained on one split by Dice and cross entropy, its best epoch by validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.augment import flip
from lim_gpu.finetune.overlap import OVERLAPS, interval, mean, overlap
from lim_gpu.finetune.protocol import Protocol
from lim_gpu.finetune.splits import Split
from lim_gpu.finetune.training import Trained, begin_epoch, check_finite, epoch_record, repeatable, state_of
from lim_gpu.finetune.unet import UNet
from lim_gpu.labelled.images import Images, Normalisation, batches, network_input

EVALUATED = 64  # images at a time where nothing is learnt


def train(
    network: UNet,
    images: Images,
    masks: Tensor,
    split: Split,
    groups: NDArray[np.int64],
    protocol: Protocol,
    normalisation: Normalisation,
    after_epoch: Callable[[int], None] = lambda _count: None,
) -> Trained:
    """Train `network` on split.train; the epoch of the highest mean Dice on split.val counts, ties the earlier.

    masks: (n, 1, size, size) uint8 on the device of the images; groups: (n,) of all images, for intervals. Raises
    LimGpuError when the loss is not finite.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)
    best: Trained | None = None
    history: list[dict[str, Any]] = []
    with repeatable():
        for epoch in range(protocol.epochs):
            loss = _train_epoch(network, optimizer, images, masks, split, protocol, normalisation, epoch)
            scores, intervals = _validate(network, images, masks, split, groups, protocol, normalisation)
            check_finite(split, epoch, loss, scores["val_loss"])
            history.append(epoch_record(protocol, epoch, loss) | scores | intervals)
            if best is None or scores["val_dice"] > best.scores["val_dice"]:
                best = Trained(epoch, scores, 1.0, state_of(network), history)
            after_epoch(1)
    assert best is not None  # epochs is at least 1
    return best


def _train_epoch(
    network: UNet,
    optimizer: torch.optim.Optimizer,
    images: Images,
    masks: Tensor,
    split: Split,
    protocol: Protocol,
    normalisation: Normalisation,
    epoch: int,
) -> float:
    """The mean loss over the batches of split.train; an image and its mask are mirrored together."""
    order, generator = begin_epoch(network, optimizer, protocol, epoch, split)
    losses = []
    for places in batches(order, protocol.batch_size):
        chosen = places.to(images.pixels.device)
        inputs = network_input(images.pixels[chosen], protocol.size, protocol.resize, normalisation)
        both = torch.cat([inputs, masks[chosen].to(inputs.dtype)], dim=1)
        both = flip(both, 0.5, generator) if protocol.flip else both
        loss = dice_and_cross_entropy(network(both[:, :-1]), both[:, -1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def dice_and_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """MONAI's DiceCELoss: 1 - Dice of the whole batch's probabilities, and the mean binary cross entropy."""
    from monai.losses.dice import DiceCELoss

    loss: Tensor = DiceCELoss(sigmoid=True, batch=True)(logits, masks)
    return loss


def predict(
    network: UNet, images: Images, places: NDArray[np.int64], protocol: Protocol, normalisation: Normalisation
) -> Tensor:
    """Logits (len(places), 1, size, size) on the CPU, batch norm with its running statistics."""
    network.eval()
    found = []
    with torch.no_grad():
        for part in torch.as_tensor(places).split(EVALUATED):
            pixels = images.pixels[part.to(images.pixels.device)]
            found.append(network(network_input(pixels, protocol.size, protocol.resize, normalisation)).cpu())
    return torch.cat(found)


def _validate(
    network: UNet,
    images: Images,
    masks: Tensor,
    split: Split,
    groups: NDArray[np.int64],
    protocol: Protocol,
    normalisation: Normalisation,
) -> tuple[dict[str, float], dict[str, list[float] | None]]:
    """Loss, mean Dice and mean IoU on split.val, and the intervals of the two over patients."""
    outputs = predict(network, images, split.val, protocol, normalisation)
    true = masks[torch.as_tensor(split.val, device=masks.device)].cpu()
    scores = {"val_loss": float(dice_and_cross_entropy(outputs, true.float()))}
    intervals = {}
    for name, values in zip(OVERLAPS, overlap((outputs > 0).numpy(), true.numpy()), strict=True):
        found = mean(values)
        scores[f"val_{name}"] = found if np.isfinite(found) else 0.0
        intervals[f"val_{name}_interval"] = interval([(groups[split.val], values)], split.seed)
    return scores, intervals
