"""What every pre-training method shares: a backbone, random views of a step, and the rates of a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lim_gpu import augment
from lim_gpu.pretrain.collectives import world
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.optimizers import build_optimizer
from lim_gpu.pretrain.schedule import learning_rate, weight_decay
from lim_gpu.weights.backbone import network

if TYPE_CHECKING:
    from lim_gpu.intensity import Intensity
    from lim_gpu.pretrain.resident import SliceBatch
    from lim_gpu.progress import Reporter
    from lim_gpu.selection.selected import SelectedSlices

Laid = TypeVar("Laid", bound=Tensor | nn.Module)
ASPECT = (3 / 4, 4 / 3)  # width / height of random crops: torchvision's default, which the methods of whole images use


class Meter(NamedTuple):
    """What a number of metrics.jsonl is: its unit ("" for a pure number), and what it means to a person."""

    unit: str
    meaning: str


SPREAD = {  # of `spread` below
    "embedding_std": Meter(
        "", "deviation of the embeddings, of length 1, in a dimension; 1 / sqrt(d) is spread, 0 is collapse"
    ),
    "effective_rank": Meter("dimensions", "that the embeddings use; 1 is collapse"),
}


# Sizes of a run are few: each has its own code. Where torch makes symbols of them, its compiler fails at split norms.
COMPILING: Mapping[str, Any] = {"dynamic": False}


class Pretraining(LightningModule):
    """A method of pre-training: `views` draws all that is random in a step, `loss` computes from it.

    config  the resolved configuration
    slices  how many slices the data set has

    Randomness comes from (seed, step, rank) alone and rates from the step, so that neither has a state to save: a
    resumed run repeats an uninterrupted one. `encoder` is a backbone under its own names, torchvision's for a ResNet;
    `meters` explains what `loss` returns, name by name.
    """

    meters: ClassVar[Mapping[str, Meter]]

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__()
        self.config, self.slices = config, slices
        self.encoder = network(config.backbone, config.channels)
        if config.compile:
            self.encoder.compile(**COMPILING)  # in place: the names of the state stay

    def prepare(self, slices: SelectedSlices, intensity: Intensity, reporter: Reporter) -> None:
        """Take from the store what the method needs beside the pixels of a step, before the first."""

    @abstractmethod
    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """The views of a batch on its device, with every other random draw of the step."""

    @abstractmethod
    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """The "loss", with gradient, and the method's meters, scalars without."""

    def training_step(self, batch: SliceBatch, batch_idx: int) -> dict[str, Tensor]:
        """The loss and the meters of a batch."""
        with torch.no_grad(), torch.autocast(batch.pixels.device.type, enabled=False):
            views = self.views(batch, step_generator(self.config.seed, self.global_step, world()[0]))
        return self.loss([laid_out(v, v.device) if v.ndim == 4 else v for v in views], batch)

    def normalized(self, images: Tensor) -> Tensor:
        """Images (n, 1, S, S) in 0..1 as the encoder takes them, (n, C, S, S)."""
        mean, std = (v[0] if len(v) == 1 else v for v in (self.config.mean, self.config.std))
        return augment.normalize(images, mean, std, self.config.channels)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, `features(backbone)`) of normalised images (B, C, H, W)."""
        return self.encoder(images)

    def begin_from(self, state: Mapping[str, Any]) -> None:
        """Take the tensors of a trained encoder."""
        self.encoder.load_state_dict(state)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the configuration; its rates are set before each step."""
        return build_optimizer(self, self.config)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate and the weight decay of this step."""
        each = int(self.trainer.num_training_batches)
        every = self.config.epochs * each
        rate = learning_rate(self.global_step, every, each, self.config)
        decay = weight_decay(self.global_step, every, self.config)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
                if group["decayed"]:
                    group["weight_decay"] = decay


def laid_out(value: Laid, place: torch.device) -> Laid:
    """A network, or images (B, C, H, W), for training at `place`: channels_last on a GPU, where cuDNN is fastest on it.

    On a CPU it was within 7 % either way (resnet18 of 96 pixels, one thread: MoCo 0.93, SwAV 1.04, SparK 1.09).
    """
    return cast(Laid, value.to(memory_format=torch.channels_last)) if place.type == "cuda" else value


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """A generator on the CPU for one step of one process: the same whatever came before."""
    (state,) = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def spread(z: Tensor) -> dict[str, Tensor]:
    """The meters SPREAD of unit embeddings (n, d): both fall to their least value when all become alike.

    embedding_std   mean standard deviation of a dimension, 0 to 1 / sqrt(d)
    effective_rank  trace(C)^2 / trace(C^2) of the covariance C, 1 to d: the participation ratio, an effective number
                    of dimensions that needs no eigenvalues
    """
    z = z - z.mean(0)
    gram = (z.T @ z if len(z) > z.shape[1] else z @ z.T) / len(z)  # both have C's eigenvalues other than 0
    return {
        "embedding_std": z.square().mean(0).sqrt().mean(),
        "effective_rank": gram.trace().square() / gram.square().sum().clamp_min(torch.finfo(z.dtype).tiny),
    }
