"""Pre-training is worth something: on procedural CT it learns what the same network without learning does not have.

The control is the same pre-training at a learning rate of nothing: its batch norm has seen the same slices. Against
untouched random weights half of the gain in a fine-tuning needed no learning, and random weights whose batch norm is
calibrated tell the planted label of the smoke data in 99 % of pairs, which leaves nothing to show there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from lim_gpu.evaluate.smoke import SIDE, make_data, smoke_grid
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import step_generator
from lim_gpu.pretrain.moco import MoCo
from lim_gpu.pretrain.resident import SliceBatch
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Reporter

CHANCE = 1 / 28  # of the slices of a phantom


def found_again(checkpoint: Path) -> float:
    """Share of the slices of phantoms that were not trained on whose other view is the nearest, by frozen features."""
    state = torch.load(checkpoint, weights_only=True)
    method = MoCo(PretrainConfig.from_dict(state["lim_gpu"]["config"]), slices=96)
    method.load_state_dict(state["state_dict"])
    method.eval()
    shares = []
    for seed in (500, 501, 502):
        pixels = torch.from_numpy(Intensity().to_uint8(phantom("chest", 28, SIDE, SIDE, seed)))
        ids = torch.arange(len(pixels))
        slices = SliceBatch(pixels, torch.full((len(pixels), 2), SIDE), ids, torch.zeros_like(ids))
        with torch.no_grad():
            views = method.views(slices, step_generator(seed, 0, 0))[:2]
            features = [method.encoder(view) for view in views]
        mean = torch.cat(features).mean(0)
        one, other = (functional.normalize(part - mean, dim=1) for part in features)
        shares.append(((one @ other.T).argmax(1) == ids).double().mean())
    return float(torch.stack(shares).mean())


def test_a_pre_trained_network_finds_slices_again_that_an_untrained_one_does_not(tmp_path):
    grid = smoke_grid(tmp_path / "data")
    make_data(tmp_path / "data", 0, Reporter(quiet=True))
    shares = {}
    for lr in (1e-12, 0.03):
        pretrain(
            grid.stores["procedural"],
            "moco",
            epochs=12,
            batch_size=8,
            backbone="resnet18",
            overrides={"moco.size": 32, "moco.output": 16, "moco.queue": 16, "lr": lr},
            output=tmp_path / f"{lr}",
            device="cpu",
        )
        shares[lr] = found_again(tmp_path / f"{lr}" / "last.ckpt")
    assert shares[0.03] > 1.5 * max(shares[1e-12], CHANCE)
