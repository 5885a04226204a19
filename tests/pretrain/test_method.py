"""What the methods share: stateless randomness, rates, meters, and that each of them learns."""

from __future__ import annotations

import math

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from batches import batch, slices
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.method import Pretraining, spread, step_generator
from lim_gpu.pretrain.moco import MoCo
from lim_gpu.pretrain.orientation import Orientation
from lim_gpu.pretrain.presets import RECONSTRUCTIONS
from lim_gpu.pretrain.reconstruct import Denoise, Masked, NextSlice
from lim_gpu.pretrain.schedule import learning_rate, weight_decay
from lim_gpu.pretrain.spark import SparK
from lim_gpu.pretrain.swav import SwAV
from lim_gpu.weights.backbone import features
from pretrainings import backbone

METHODS = {"swav": SwAV, "moco": MoCo, "spark": SparK, "rotation": Orientation, "flip": Orientation} | {
    "masked": Masked,
    "next-slice": NextSlice,
    "denoise": Denoise,
}
QUICK = "timm:test_resnet"  # half a million weights: whether a loss is learnt does not hang on the backbone
LAMB = {"optimizer": "lamb", "eps": 1e-6, "lr": 0.002}  # learns within a few dozen steps
SMALL = {
    "swav": LAMB
    | {
        "swav.large_size": 32,
        "swav.large_scale": (0.6, 1.0),
        "swav.small_size": 32,
        "swav.small_scale": (0.3, 0.6),
        "swav.small_crops": 2,
        "swav.jitter": 0.0,
        "swav.blur": 0.0,
        "swav.prototypes": 16,
        "swav.hidden": 64,
        "swav.output": 32,
        "swav.queue": 64,
        "swav.queue_from_epoch": 2,
        "swav.freeze_epochs": 0,
    },
    "moco": LAMB
    | {
        "moco.size": 32,
        "moco.scale": (0.5, 1.0),
        "moco.jitter": 0.0,
        "moco.blur": 0.0,
        "moco.output": 32,
        "moco.bn_groups": 2,
        "moco.key_momentum": 0.9,
    },
    "spark": {"spark.size": 64, "spark.decoder_width": 64, "lr": 0.01},
    "rotation": {"orientation.size": 64},
    "flip": {"orientation.size": 64},
} | {name: {"reconstruct.size": 32, "reconstruct.codes": 32} for name in RECONSTRUCTIONS}
STEPS = 6  # an epoch: 96 slices, 16 a step


def method(name: str, epochs: int = 1, **overrides) -> Pretraining:
    torch.manual_seed(0)
    common = {"backbone": backbone(name), "batch_size": 16, "epochs": epochs, "precision": "32", "warmup_epochs": 0}
    config = resolve(name, overrides=common | SMALL[name] | overrides)
    return METHODS[name](config, slices=len(slices()[0]))


def fit(module: Pretraining) -> list[dict[str, float]]:
    """Train for the epochs of the configuration; the loss and meters of every step."""
    found: list[dict[str, float]] = []
    step = module.training_step

    def recorded(*args) -> dict[str, Tensor]:
        outputs = step(*args)
        found.append({name: value.item() for name, value in outputs.items()} | {"lr": rate(module)})
        return outputs

    module.training_step = recorded
    loader = DataLoader(
        range(96), 16, shuffle=True, collate_fn=lambda ids: batch(torch.tensor(ids)), generator=torch.Generator()
    )
    Trainer(
        max_epochs=module.config.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    return found


def rate(module: Pretraining) -> float:
    return module.trainer.optimizers[0].param_groups[0]["lr"]


def test_the_draws_of_a_step_depend_on_seed_step_and_process_alone():
    def draw(*place: int) -> list[float]:
        return torch.rand(3, generator=step_generator(*place)).tolist()

    assert draw(0, 5, 0) == draw(0, 5, 0)
    assert len({tuple(draw(*place)) for place in ((0, 5, 0), (1, 5, 0), (0, 6, 0), (0, 5, 1), (5, 0, 0))}) == 5


@pytest.mark.parametrize("name", METHODS)
def test_views_repeat(name):
    module, rows = method(name), batch(torch.arange(16))
    first, again, other = (module.views(rows, step_generator(0, step, 0)) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_one_channel(name):
    module = method(name, channels=1)
    assert next(module.encoder.parameters()).shape[1] == 1
    assert module.training_step(batch(torch.arange(16)), 0)["loss"].isfinite()
    assert module.embed(torch.zeros(2, 1, 64, 64)).shape == (2, features(backbone(name)))


@pytest.mark.parametrize("name", METHODS)
def test_every_number_is_explained(name):
    module = method(name)
    assert set(module.training_step(batch(torch.arange(16)), 0)) == set(module.meters)


@pytest.mark.parametrize("name", ["swav", "moco", "rotation"])
def test_what_needs_features_alone_trains_vqae_too(name):
    module = method(name, backbone="vqae-small")
    module.training_step(batch(torch.arange(16)), 0)["loss"].backward()
    assert all(p.grad is not None for p in module.encoder.parameters())


def test_rates_are_set_before_every_step():
    module = method("moco", epochs=3, warmup_epochs=1.0, final_weight_decay=0.2, **{"moco.size": 32})
    rates = [row["lr"] for row in fit(module)]
    assert rates == [learning_rate(step, 3 * STEPS, STEPS, module.config) for step in range(3 * STEPS)]
    assert len(set(rates)) > STEPS
    decays = [group["weight_decay"] for group in module.trainer.optimizers[0].param_groups]
    assert decays == [weight_decay(3 * STEPS - 1, 3 * STEPS, module.config), 0]  # of the last step; none for the norms


def test_spread_measures_dimensions():
    generator = torch.Generator().manual_seed(0)
    sphere = functional.normalize(torch.randn(4096, 16, generator=generator), dim=1)
    assert spread(sphere)["embedding_std"].item() == pytest.approx(16**-0.5, rel=0.01)
    assert spread(sphere)["effective_rank"].item() == pytest.approx(16, rel=0.01)
    plane = torch.randn(64, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(plane.T, correction=0).double())
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    assert spread(plane)["effective_rank"].item() == pytest.approx(expected.item(), rel=1e-4)
    few = plane[:8]  # fewer rows than dimensions
    expected = torch.cov(few.T, correction=0).trace() ** 2 / torch.cov(few.T, correction=0).square().sum()
    assert spread(few)["effective_rank"].item() == pytest.approx(expected.item(), rel=1e-4)
    alike = spread(torch.ones(8, 16))
    assert alike["embedding_std"] == 0
    assert alike["effective_rank"] == 0


def ends(rows: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Mean of a meter over the first epoch and over the last."""
    first, last = (sum(row[name] for row in part) / STEPS for part in (rows[:STEPS], rows[-STEPS:]))
    return first, last


def test_the_loss_of_swav_falls_below_chance():
    rows = fit(method("swav", epochs=6, backbone=QUICK))
    first, last = ends(rows, "loss")
    assert last < first - 0.5  # seeds 0 to 3: 0.82 to 1.02
    # log(16) is what is left when the codes cannot be told; seeds 0 to 3 came to 0.25 to 0.40 below it
    assert last < math.log(16) - 0.15
    assert ends(rows, "usage_perplexity")[1] > 11  # and not because all slices share a prototype; 13.0 to 14.1


def test_the_loss_of_moco_falls_below_chance():
    rows = fit(method("moco", epochs=6, backbone=QUICK))
    filled = [row for row in rows if row["queue_filled"] == 1][1:]
    assert len(filled) == 6 * STEPS - 1
    first, last = ends(filled, "loss")
    assert last < first - 0.15  # seeds 0 to 3 came to 0.41 to 0.42
    assert last < math.log(17) - 0.2  # of a key and a queue of 16; seeds came to 0.76 to 0.85 below it
    assert ends(filled, "pretext_top1")[1] > 2 / 17  # seeds came to 0.20 to 0.33


def test_the_loss_of_spark_falls_below_that_of_painting_nothing():
    rows = fit(method("spark", epochs=5))
    assert ends(rows, "loss")[1] < 0.99 * ends(rows, "baseline")[1]  # seeds 0 to 2 came to at most 0.964
