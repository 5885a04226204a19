"""One run: a network fine-tuned on one split, its best epoch kept by validation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from lim_gpu.augment import flip
from lim_gpu.errors import LimGpuError
from lim_gpu.finetune.protocol import Protocol
from lim_gpu.finetune.splits import Split
from lim_gpu.labelled.images import Images, Normalisation, batches, network_input
from lim_gpu.weights.backbone import features, has_bfloat16, resnet

EVALUATED = 256  # images at a time where nothing is learnt


class Classifier(torch.nn.Module):
    """A backbone and one linear layer: (B, channels, H, W) to logits (B, classes)."""

    def __init__(self, backbone: str, channels: int, classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.encoder = resnet(backbone, channels, pretrained=pretrained)
        self.head = torch.nn.Linear(features(backbone), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        return self.head(self.encoder(images))


@dataclass(frozen=True)
class Trained:
    """The best epoch (0-based) of a run, its validation accuracy and loss, its state (CPU), all epochs' records."""

    epoch: int
    accuracy: float
    loss: float
    state: dict[str, Tensor]
    history: list[dict[str, Any]]


def train(
    network: Classifier,
    images: Images,
    labels: Tensor,
    split: Split,
    protocol: Protocol,
    normalisation: Normalisation,
    after_epoch: Callable[[int], None] = lambda _count: None,
) -> Trained:
    """Fine-tune `network` on split.train; the epoch of the highest accuracy on split.val counts, ties the earlier.

    labels: (n,) int64 on the device of the images. Raises LimGpuError when the loss is not finite.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)
    best: Trained | None = None
    history: list[dict[str, Any]] = []
    with _repeatable():
        for epoch in range(protocol.epochs):
            loss = _train_epoch(network, optimizer, images, labels, split, protocol, normalisation, epoch)
            accuracy, val_loss = _validate(network, images, labels, split.val, protocol, normalisation)
            if not (math.isfinite(loss) and math.isfinite(val_loss)):
                raise LimGpuError(f"run {split.run}: the loss is not finite in epoch {epoch}. Give a lower --lr")
            phase = {"phase": "head" if protocol.head_only(epoch) else "all", "lr": protocol.learning_rate(epoch)}
            history.append({"epoch": epoch} | phase | {"loss": loss, "val_loss": val_loss, "val_acc": accuracy})
            if best is None or accuracy > best.accuracy:
                state = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
                best = Trained(epoch, accuracy, val_loss, state, history)
            after_epoch(1)
    assert best is not None  # epochs is at least 1
    return best


def _train_epoch(
    network: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Images,
    labels: Tensor,
    split: Split,
    protocol: Protocol,
    normalisation: Normalisation,
    epoch: int,
) -> float:
    """The mean loss over the batches of split.train, in an order that depends on the seed and the epoch alone."""
    _begin_epoch(network, optimizer, protocol, epoch)
    generator = torch.Generator().manual_seed(_epoch_seed(split.seed, epoch))
    order = split.train[torch.randperm(len(split.train), generator=generator).numpy()]
    losses = []
    for places in batches(order, protocol.batch_size):
        chosen = places.to(images.pixels.device)
        inputs = network_input(images.pixels[chosen], protocol.size, protocol.resize, normalisation)
        inputs = flip(inputs, 0.5, generator) if protocol.flip else inputs
        with _mixed(protocol, inputs.device):
            outputs = network(inputs)
        loss = cross_entropy(outputs.float(), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _begin_epoch(network: Classifier, optimizer: torch.optim.Optimizer, protocol: Protocol, epoch: int) -> None:
    """What trains in this epoch, at which rate, and how batch norm behaves.

    A parameter without a gradient is skipped by Adam, its weight decay included: so one optimizer serves both phases.
    """
    network.train()
    alone = protocol.head_only(epoch)
    for group in optimizer.param_groups:
        group["lr"] = protocol.learning_rate(epoch)
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(not alone)
    if alone and protocol.norm == "frozen":
        network.encoder.eval()
    elif alone:
        for module in network.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(True)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """cuDNN's algorithms that give the same bits for the same seed."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _mixed(protocol: Protocol, place: torch.device) -> torch.autocast:
    """The precision of the network: what it holds stays float32."""
    auto = protocol.precision == "auto" and has_bfloat16(place)
    return torch.autocast(place.type, torch.bfloat16, enabled=auto or protocol.precision == "bf16-mixed")


@torch.no_grad()
def calibrate(
    network: Classifier, images: Images, places: NDArray[np.int64], protocol: Protocol, normalisation: Normalisation
) -> None:
    """Give batch norm the mean statistics of the images at `places`, in batches of the protocol; no weight changes."""
    norms = [module for module in network.encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # each batch counts alike
    network.train()
    for part in batches(places, protocol.batch_size):
        chosen = images.pixels[part.to(images.pixels.device)]
        network.encoder(network_input(chosen, protocol.size, protocol.resize, normalisation))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def logits(
    network: Classifier, images: Images, places: NDArray[np.int64], protocol: Protocol, normalisation: Normalisation
) -> Tensor:
    """(len(places), classes) float32 on the device of the images, batch norm with its running statistics."""
    network.eval()
    with torch.no_grad(), _mixed(protocol, images.pixels.device):
        return torch.cat(
            [
                network(
                    network_input(
                        images.pixels[part.to(images.pixels.device)], protocol.size, protocol.resize, normalisation
                    )
                )
                for part in batches(places, EVALUATED)
            ]
        ).float()


def _validate(
    network: Classifier,
    images: Images,
    labels: Tensor,
    places: NDArray[np.int64],
    protocol: Protocol,
    normalisation: Normalisation,
) -> tuple[float, float]:
    """Accuracy and mean cross entropy on `places`."""
    outputs = logits(network, images, places, protocol, normalisation)
    true = labels[torch.as_tensor(places, device=labels.device)]
    return float((outputs.argmax(dim=1) == true).double().mean()), float(cross_entropy(outputs, true))
