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
from lim_gpu.finetune.calibration import fitted_temperature
from lim_gpu.finetune.protocol import Protocol
from lim_gpu.finetune.splits import Split
from lim_gpu.finetune.threshold import auc
from lim_gpu.labelled.images import Images, Normalisation, batches, network_input
from lim_gpu.weights.backbone import features, has_bfloat16, network

EVALUATED = 256  # images at a time where nothing is learnt
Views = Callable[[Tensor, torch.Generator | None], Tensor]  # of places (b,): what of these images a network is given


class Classifier(torch.nn.Module):
    """A backbone and one linear layer: (B, channels, H, W) to logits (B, classes)."""

    def __init__(self, backbone: str, channels: int, classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.encoder = network(backbone, channels, pretrained=pretrained)
        self.head = torch.nn.Linear(features(backbone), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        return self.head(self.encoder(images))


@dataclass(frozen=True)
class Trained:
    """The best epoch (0-based) of a run, its validation scores by name, its state (CPU), all epochs' records.

    temperature: by which its logits are divided, for probabilities that hold on the validation images; 1 of masks.
    """

    epoch: int
    scores: dict[str, float]
    temperature: float
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
    positive: int | None = None,
) -> Trained:
    """Fine-tune `network` on split.train; the epoch of the highest accuracy on split.val counts, ties the earlier.

    positive: the highest AUC counts, of this class where there are two, else the mean of each against the rest.
    labels: (n,) int64 on the device of the images. Raises LimGpuError when the loss is not finite.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)
    best: Trained | None = None
    history: list[dict[str, Any]] = []
    true = labels[torch.as_tensor(split.val, device=labels.device)]
    with repeatable():
        learner, views = _learner(network, _pixels(images, protocol, normalisation), split, protocol)
        for epoch in range(protocol.epochs):
            order, generator = begin_epoch(network, optimizer, protocol, epoch, split)
            loss = _train_epoch(learner, optimizer, views, labels, order, generator, protocol)
            outputs = _outputs(learner, views, split.val, protocol, labels.device)
            scores = _scores(outputs, true, positive)
            check_finite(split, epoch, loss, scores["val_loss"])
            history.append(epoch_record(protocol, epoch, loss) | scores)
            decisive = "val_acc" if positive is None else "val_auc"
            if best is None or scores[decisive] > best.scores[decisive]:
                best = Trained(epoch, scores, fitted_temperature(outputs, true), state_of(network), history)
            after_epoch(1)
    assert best is not None  # epochs is at least 1
    return best


def check_finite(split: Split, epoch: int, *losses: float) -> None:
    """Raise LimGpuError for a loss that is not finite."""
    if not all(map(math.isfinite, losses)):
        raise LimGpuError(f"run {split.run}: the loss is not finite in epoch {epoch}. Give a lower --lr")


def epoch_record(protocol: Protocol, epoch: int, loss: float) -> dict[str, Any]:
    """What is recorded of an epoch beside its validation scores."""
    phase = "head" if protocol.head_only(epoch) else "all"
    return {"epoch": epoch, "phase": phase, "lr": protocol.learning_rate(epoch), "loss": loss}


def state_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the state on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}


def _pixels(images: Images, protocol: Protocol, normalisation: Normalisation) -> Views:
    """The images themselves, mirrored at random where a generator is given."""

    def views(places: Tensor, generator: torch.Generator | None) -> Tensor:
        inputs = network_input(images.pixels[places], protocol.size, protocol.resize, normalisation)
        return flip(inputs, 0.5, generator) if generator is not None and protocol.flip else inputs

    return views


def _learner(network: Classifier, views: Views, split: Split, protocol: Protocol) -> tuple[torch.nn.Module, Views]:
    """What trains, and what it is given of the images: of a linear probe the head, and features made once."""
    if not protocol.frozen:
        return network, views
    places, device = np.concatenate([split.train, split.val]), network.head.weight.device
    found = _outputs(network.encoder, views, places, protocol, device)
    features = found.new_zeros(int(places.max()) + 1, found.shape[1])
    features[torch.as_tensor(places, device=device)] = found
    return network.head, lambda chosen, _generator: features[chosen]


def _train_epoch(
    learner: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    views: Views,
    labels: Tensor,
    order: NDArray[np.int64],
    generator: torch.Generator,
    protocol: Protocol,
) -> float:
    """The mean loss over the batches of the training images in this order."""
    losses = []
    for places in batches(order, protocol.batch_size):
        chosen = places.to(labels.device)
        inputs = views(chosen, generator)
        with _mixed(protocol, inputs.device):
            outputs = learner(inputs)
        loss = cross_entropy(outputs.float(), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def begin_epoch(
    network: Any, optimizer: torch.optim.Optimizer, protocol: Protocol, epoch: int, split: Split
) -> tuple[NDArray[np.int64], torch.Generator]:
    """Set what trains in this epoch, at which rate, and how batch norm behaves; the order of images, and the generator
    of all that is random.

    network: one whose backbone is `encoder`. A parameter without a gradient is skipped by Adam, its weight decay
    included: so one optimizer serves both phases.
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
    generator = torch.Generator().manual_seed(_epoch_seed(split.seed, epoch))
    return split.train[torch.randperm(len(split.train), generator=generator).numpy()], generator


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
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
    network: torch.nn.Module,
    images: Images,
    places: NDArray[np.int64],
    protocol: Protocol,
    normalisation: Normalisation,
) -> Tensor:
    """(len(places), classes), of a U-Net (len(places), 1, H, W), float32 on the device of the images.

    Batch norm with its running statistics.
    """
    return _outputs(network, _pixels(images, protocol, normalisation), places, protocol, images.pixels.device)


def _outputs(
    network: torch.nn.Module, views: Views, places: NDArray[np.int64], protocol: Protocol, device: torch.device
) -> Tensor:
    """(len(places), ...) float32 of what `network` makes of these images while it learns nothing."""
    network.eval()
    with torch.no_grad(), _mixed(protocol, device):
        return torch.cat([network(views(part.to(device), None)) for part in batches(places, EVALUATED)]).float()


def _scores(outputs: Tensor, true: Tensor, positive: int | None) -> dict[str, float]:
    """Accuracy and mean cross entropy of logits (n, classes), and the AUC where a positive class is given."""
    accuracy = float((outputs.argmax(dim=1) == true).double().mean())
    found = {"val_loss": float(cross_entropy(outputs, true)), "val_acc": accuracy}
    if positive is None:
        return found
    return found | {"val_auc": auc(torch.softmax(outputs.double(), dim=1).cpu().numpy(), true.cpu().numpy(), positive)}
