"""What a whole step costs: of the product beside plain torch with lightly's parts, and compiled beside eager.

    python -m bench.steps              # the product, Lightning's loop and meters included, on ready views and its own
    python -m bench.steps compiled [METHOD ...]     # needs a C++ compiler; minutes

ResNet18 on the CPU, CPU milliseconds of the one thread, the least of a few steps: what else runs on the machine does
not count. Of compiling the CPU seconds of everything that it starts.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightly.loss import NTXentLoss, SwaVLoss
from lightly.models.modules import MoCoProjectionHead, SwaVProjectionHead
from lightly.models.utils import update_momentum
from lightning import Callback
from torch import Tensor, nn
from torch.nn import functional

from bench import inputs
from bench.step_parts import ROUNDS, milliseconds
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.callbacks import Recorder
from lim_gpu.pretrain.config import PretrainConfig, resolve
from lim_gpu.pretrain.datamodule import Epochs
from lim_gpu.pretrain.folder import RunFolder
from lim_gpu.pretrain.method import Pretraining, step_generator
from lim_gpu.pretrain.optimizers import build_optimizer
from lim_gpu.pretrain.plan import Plan
from lim_gpu.pretrain.resident import ResidentSlices, SliceBatch
from lim_gpu.pretrain.training import build_method, build_trainer
from lim_gpu.progress import Reporter
from lim_gpu.weights.backbone import features, network

BATCH, KEYS = 16, 4096
CPU = torch.device("cpu")
STEPS = 4  # the first warms up
SIZES = {"swav.large_size": 96, "swav.small_size": 48, "swav.queue": 0, "moco.size": 96, "spark.size": 96}
SIZES |= {"moco.queue": KEYS, "moco.queue_share": 0, "spark.decoder_width": 256}


class PlainSwAV(nn.Module):
    """SwAV without queue and meters."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.encoder = network(config.backbone, config.channels)
        self.head = SwaVProjectionHead(features(config.backbone), config.swav.hidden, config.swav.output)
        self.prototypes = nn.Linear(config.swav.output, config.swav.prototypes, bias=False)
        self.loss = SwaVLoss()

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        """Of 2 and 6 crops a slice."""
        with torch.no_grad():
            self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))
        embedded = self.head(torch.cat([self.encoder(large), self.encoder(small)]))
        scores = self.prototypes(functional.normalize(embedded, dim=1)).chunk(8)
        loss: Tensor = self.loss(scores[:2], scores[2:])
        return loss


class PlainMoCo(nn.Module):
    """MoCo v2 with plain batch norm, without meters."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        width = features(config.backbone)
        self.query = nn.Sequential(
            network(config.backbone, config.channels), MoCoProjectionHead(width, width, config.moco.output)
        )
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.loss = NTXentLoss(config.moco.temperature, memory_bank_size=(KEYS, config.moco.output))

    def forward(self, query: Tensor, key: Tensor, order: Tensor) -> Tensor:
        """Of a query and a key a slice."""
        update_momentum(self.query, self.key, 0.999)
        with torch.no_grad():
            k = self.key(key[order])[order.argsort()]
        loss: Tensor = self.loss(self.query(query), k)
        return loss


class Clock(Callback):
    """CPU seconds of each step of a trainer, from the end of the one before."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """A step has ended; this comes after what the product does there."""
        self.ends.append(time.thread_time())

    @property
    def milliseconds(self) -> float:
        """The least."""
        return 1e3 * min(end - start for start, end in zip(self.ends, self.ends[1:], strict=False))


def configured(method: str, **overrides: Any) -> PretrainConfig:
    """The recommended one, small, in one long epoch."""
    own = {name: value for name, value in SIZES.items() if name.startswith(f"{method}.")}
    return resolve(method, overrides=own | {"backbone": "resnet18", "batch_size": BATCH, "epochs": 1} | overrides)


def of(config: PretrainConfig) -> tuple[Plan, Pretraining, Epochs]:
    """A method with its slices."""
    plan = Plan(config, Path("slices"), None, Intensity(), STEPS * BATCH, 1, {})
    return plan, build_method(plan, CPU), Epochs(slices(), BATCH, config.seed)


@cache
def slices() -> ResidentSlices:
    """Those of an epoch."""
    sizes = torch.full((STEPS * BATCH, 2), inputs.SIZE)
    return ResidentSlices(inputs.volume(len(sizes), "cpu"), sizes, torch.zeros(len(sizes), dtype=torch.int64))


def trained(config: PretrainConfig, ready: list[Tensor] | None) -> float:
    """Milliseconds of a step of the product, on `ready` views or with its own."""
    plan, module, epochs = of(config)
    if ready is not None:
        module.views = lambda batch, generator: ready  # type: ignore[method-assign]
    clock = Clock()
    with TemporaryDirectory() as folder:
        recorder = Recorder(plan, RunFolder(Path(folder)), Reporter(quiet=True), [], None, 1)
        trainer = build_trainer(plan, CPU, "32-true", [recorder, clock])
        trainer.fit(module, train_dataloaders=epochs)
        recorder.close()
    return clock.milliseconds


def plain(kind: type[nn.Module], config: PretrainConfig, views: list[Tensor]) -> float:
    """Milliseconds of a step of plain torch, with the optimizer of the product."""
    module = kind(config)
    optimizer = build_optimizer(module, config)

    def step() -> None:
        loss = module(*views)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return milliseconds(step)


def compare_products() -> None:
    """A row a method: plain torch, the product on the same views, and the product; in turns."""
    kinds: dict[str, tuple[type[nn.Module], PretrainConfig]] = {
        "SwAV": (PlainSwAV, configured("swav")),
        "MoCo": (PlainMoCo, configured("moco")),
        "MoCo, one group of batch norm": (PlainMoCo, configured("moco", **{"moco.bn_groups": 1})),
    }
    for name, (kind, config) in kinds.items():
        _, module, epochs = of(config)
        views = module.views(next(iter(epochs)), step_generator(0, 0, 0))
        ways = (partial(plain, kind, config, views), partial(trained, config, views), partial(trained, config, None))
        alone, ready, whole = map(min, zip(*([way() for way in ways] for _ in range(ROUNDS)), strict=True))
        print(
            f"{name}: plain {alone:.0f} ms; ours, ready views {ready:.0f} ms, {alone / ready:.0%}; with views "
            f"{whole:.0f} ms, {alone / whole:.0%}",
            flush=True,
        )


def compare_compiled(methods: Sequence[str]) -> None:
    """A row a method: forward and backward, eager and compiled, which give the same loss."""
    for method in methods:
        eager, before, _ = stepped(configured(method))
        compiled, after, took = stepped(configured(method, compile=True))
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
        share = f"{compiled / eager:.2f} of it, after {took:.0f} s of compiling"
        print(f"{method}: eager {eager:.0f} ms; compiled {compiled:.0f} ms, {share}", flush=True)


def stepped(config: PretrainConfig) -> tuple[float, Tensor, float]:
    """Milliseconds of forward and backward, a later loss, and CPU seconds of the first step, compiling included."""
    _, module, epochs = of(config)
    batch = next(iter(epochs))
    views = module.views(batch, step_generator(0, 0, 0))
    step: Callable[[], Tensor] = partial(_loss, module, views, batch)
    start = sum(os.times()[:4])
    step()
    took = sum(os.times()[:4]) - start
    return milliseconds(step), step(), took  # MoCo's first loss is 0: its queue is empty


def _loss(module: Pretraining, views: list[Tensor], batch: SliceBatch) -> Tensor:
    loss = module.loss(views, batch)["loss"]
    loss.backward()
    return loss.detach()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["compiled"]:
        compare_compiled(sys.argv[2:] or ("swav", "moco", "spark"))
    else:
        compare_products()
