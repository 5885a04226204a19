"""Rotation and flip: how slices are turned, the loss beside chance and the published score, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from batches import batch
from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.method import step_generator
from lim_gpu.pretrain.orientation import Orientation, flipped, rotated

TINY = {"backbone": "resnet18", "batch_size": 16, "orientation.size": 32}
IMAGES = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def orientation(method: str, **overrides) -> Orientation:
    torch.manual_seed(0)
    return Orientation(resolve(method, overrides=TINY | overrides), slices=96)


def test_rotations_are_numpys():
    turns = torch.tensor([3, 0, 2, 1])
    for image, turn, found in zip(IMAGES, turns, rotated(IMAGES, turns), strict=True):
        assert np.array_equal(found, np.rot90(image, int(turn), (1, 2)))


def test_flips_are_numpys():
    found = flipped(IMAGES[:3], torch.tensor([0, 1, 2]))
    assert torch.equal(found[0], IMAGES[0])
    assert np.array_equal(found[1], IMAGES[1].numpy()[:, :, ::-1])
    assert np.array_equal(found[2], IMAGES[2].numpy()[:, ::-1])


@pytest.mark.parametrize(("method", "turns"), [("rotation", 4), ("flip", 3)])
def test_every_turn_is_drawn(method, turns):
    _, drawn = orientation(method).views(batch(torch.arange(96)), step_generator(0, 0, 0))
    assert set(drawn.tolist()) == set(range(turns))
    assert drawn.bincount().min() > 96 / turns / 2


@pytest.mark.parametrize(("method", "turns"), [("rotation", 4), ("flip", 3)])
def test_a_head_that_knows_nothing_is_at_chance_and_a_sure_one_at_the_published_floor(method, turns):
    """The paper's 0.7436 for rotation is the floor of a softmax taken twice, not a loss that stopped there."""
    module = orientation(method)
    views = module.views(batch(torch.arange(16)), step_generator(0, 0, 0))
    torch.nn.init.zeros_(module.head.weight)
    torch.nn.init.zeros_(module.head.bias)
    assert module.loss(views, batch(torch.arange(16)))["loss"].item() == pytest.approx(math.log(turns))
    module.head.bias.data[0] = 100.0
    sure = module.loss([views[0], torch.zeros_like(views[1])], batch(torch.arange(16)))
    assert sure["loss"].item() == pytest.approx(0, abs=1e-6)
    assert sure["pretext_top1"] == 1
    assert sure["softmax_twice"].item() == pytest.approx(math.log(1 + (turns - 1) / math.e))


@pytest.mark.parametrize("method", ["rotation", "flip"])
def test_the_loss_falls_below_chance(method):
    module = orientation(method)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    rows, found = batch(torch.arange(0, 96, 3)), []
    for step in range(25):
        loss = module.loss(module.views(rows, step_generator(0, step, 0)), rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert np.mean(found[-5:]) < 0.8 * math.log(module.head.out_features)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("wolf2024-paper", {}, "wolf2024-paper"),
        ("recommended", {"orientation.size": 16}, "orientation.size 16 is too small"),
        ("recommended", {"orientation.scale": "0.5,2"}, "more than the image"),
        ("recommended", {"moco.size": 32}, "belongs to another method than rotation"),
    ],
)
def test_what_makes_no_sense_is_refused(preset, overrides, message):
    with pytest.raises(UsageError, match=message):
        resolve("rotation", preset, overrides)
