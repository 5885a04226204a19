"""Masked, next-slice and denoise: the loss and its terms, the curriculum, presets; trivial answers are beaten."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from batches import batch
from lim_gpu.errors import UsageError
from lim_gpu.pretrain.checkpoints import kept_epochs
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.method import step_generator
from lim_gpu.pretrain.presets import RECONSTRUCTIONS
from lim_gpu.pretrain.reconstruct import Denoise, Masked, NextSlice, Reconstruction, masked_mse, stretched
from lim_gpu.pretrain.run import pretrain
from pretrainings import arguments

METHODS: dict[str, type[Reconstruction]] = {"masked": Masked, "next-slice": NextSlice, "denoise": Denoise}
TINY = {"backbone": "vqae-small", "batch_size": 16, "reconstruct.size": 32, "reconstruct.codes": 64}
ROWS = torch.arange(0, 96, 3)


def reconstruction(method: str, preset: str = "recommended", **overrides) -> Reconstruction:
    torch.manual_seed(0)
    return METHODS[method](resolve(method, preset, TINY | overrides), slices=96)


def views(module: Reconstruction, rows: torch.Tensor = ROWS) -> list[torch.Tensor]:
    return module.views(batch(rows), step_generator(0, 0, 0))


def test_a_masked_image_differs_from_its_target_within_its_square_alone():
    images, target, squares, _ = views(reconstruction("masked"))
    assert squares[:, 2].tolist() == [14] * len(ROWS)  # .2 of 32 x 32 pixels
    for image, whole, (top, left, side) in zip(images, target, squares.tolist(), strict=True):
        painted = whole.clone()
        painted[:, top : top + side, left : left + side] = 0
        assert torch.equal(image, painted)


def test_the_next_slice_is_seen_through_the_same_box():
    module = reconstruction("next-slice", **{"reconstruct.scale": (0.3, 0.6)})
    images, target, _, _ = views(module)
    after, _, _, _ = module.views(batch(ROWS)._replace(pixels=batch(ROWS).following), step_generator(0, 0, 0))
    assert torch.equal(target, after)
    assert not torch.equal(images, target)


def test_inputs_are_normalised_and_targets_are_not():
    plain, other = reconstruction("masked"), reconstruction("masked", mean=0.2, std=0.5)
    for (a, b), scaled in zip(zip(views(plain)[:2], views(other)[:2], strict=True), (True, False), strict=True):
        torch.testing.assert_close((a - 0.2) / 0.5 if scaled else a, b)
    found = [module.baseline(*views(module)[:3])["baseline"].item() for module in (plain, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_weighted_sum_of_its_terms(method):
    module = reconstruction(method)
    found = {name: value.item() for name, value in module.loss(views(module), batch(ROWS)).items()}
    terms = 0.2 * found["mse"] + 0.2 * found.get("masked_mse", 0) + 0.8 * found["vq"] - 0.1 * found["ssim"]
    assert found["loss"] == pytest.approx(terms, rel=1e-5)
    assert ("masked_mse" in found) == (method == "masked")


def test_ssim_is_scikit_images_and_stretched_where_the_code_did():
    metrics = pytest.importorskip("skimage.metrics")
    for preset, change in (("tariq2024-paper", lambda image: image), ("tariq2024-code", stretched)):
        module = reconstruction("denoise", preset, channels=1).eval()
        images, target, squares, picks = views(module, ROWS[:2])
        with torch.no_grad():
            output = change(module.restore(images, picks)[0])
            found = module.loss([images, target, squares, picks], batch(ROWS[:2]))["ssim"].item()
        how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "full": True}
        maps = [
            metrics.structural_similarity(a[0].double().numpy(), b[0].double().numpy(), **how)[1]
            for a, b in zip(output, target, strict=True)
        ]
        expected = np.mean([m[5:-5, 5:-5].mean() for m in maps])
        assert found == pytest.approx(expected, abs=2e-6)


def test_the_masked_error_is_a_mean_or_as_published_in_code_a_sum():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand(2, 3, 1, 8, 8, generator=generator)
    squares = torch.tensor([[0, 0, 4], [2, 3, 4], [4, 4, 4]])
    found = masked_mse(output, target, squares)
    for i, (top, left, side) in enumerate(squares.tolist()):
        part = (slice(None), slice(top, top + side), slice(left, left + side))
        assert found[i].item() == pytest.approx(functional.mse_loss(output[i][part], target[i][part]).item())
    mean, total = (reconstruction("masked", preset) for preset in ("tariq2024-paper", "tariq2024-code"))
    assert mean.masked_terms(output, target, squares)["masked_mse"] == found.mean()
    assert total.masked_terms(output, target, squares)["masked_mse"] == found.sum()


def test_shares_take_turns_over_the_epochs():
    config = resolve("masked", "tariq2024-paper", {"epochs": 10})
    assert [config.share(epoch) for epoch in range(10)] == [0.05] * 3 + [0.1] * 2 + [0.2] * 3 + [0.33] * 2
    assert config.stages == {3: 0.05, 5: 0.1, 8: 0.2, 10: 0.33}
    assert resolve("denoise", "tariq2024-paper").stages == {}


def test_which_epochs_keep_a_checkpoint():
    config = resolve("masked", "tariq2024-paper", {"epochs": 10})
    assert kept_epochs(config, 4) == {3, 4, 5, 8, 10}
    assert kept_epochs(config, 50) == {3, 5, 8, 10}
    plain = resolve("swav", "recommended", {"epochs": 100})
    assert kept_epochs(plain, 50) == {50, 100}
    assert kept_epochs(plain, 30) == {30, 60, 90, 100}


def test_a_checkpoint_stays_of_every_stage(store, tmp_path):
    outcome = pretrain(store, "masked", output=tmp_path / "run", **arguments("masked", epochs=4))
    assert sorted(path.name for path in (tmp_path / "run").glob("epoch=*.ckpt")) == ["epoch=2.ckpt", "epoch=4.ckpt"]
    assert outcome.values["total_steps"] == 16
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "masked share of the area: 0.1 to epoch 2, 0.3 to epoch 4; a checkpoint stays of each" in plan
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["epoch"] for row in rows} == {0, 1, 2, 3}


@pytest.mark.parametrize("method", RECONSTRUCTIONS)
def test_presets_are_the_published_settings(method):
    recommended, paper, code = (resolve(method, name) for name in ("recommended", "tariq2024-paper", "tariq2024-code"))
    for config in (recommended, paper, code):
        assert (config.backbone, config.optimizer, config.lr, config.batch_size) == ("vqae", "radam", 1e-3, 16)
        part = config.reconstruct
        assert (part.mse, part.masked, part.vq, part.ssim, part.codes, part.noise) == (0.2, 0.2, 0.8, 0.1, 512, 0.5)
    assert (recommended.channels, paper.channels, code.channels) == (1, 1, 3)
    assert (recommended.reconstruct.dead_after, paper.reconstruct.dead_after, code.reconstruct.dead_after) == (
        100,
        0,
        0,
    )
    assert paper.reconstruct.shares == (0.05, 0.1, 0.2, 0.33)


def trained(module: Reconstruction, steps: int) -> dict[str, float]:
    """The mean meters of the last steps; by Adam, as RAdam begins slowly."""
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    rows, found = batch(ROWS[::2]), []
    for step in range(steps):
        meters = module.loss(module.views(rows, step_generator(0, step, 0)), rows)
        optimizer.zero_grad()
        meters["loss"].backward()
        optimizer.step()
        found.append({name: value.item() for name, value in meters.items()})
    return {name: float(np.mean([row[name] for row in found[-5:]])) for name in found[0]}


@pytest.mark.usefixtures("one_thread")
def test_painting_beats_the_black_square():
    last = trained(reconstruction("masked"), 20)
    assert last["masked_mse"] < 0.5 * last["baseline"]


@pytest.mark.usefixtures("one_thread")
def test_denoising_beats_leaving_the_noise():
    """docs/pretext.md has the median, which takes longer."""
    module = reconstruction("denoise")
    noisy, clean, _, _ = views(module)
    assert trained(module, 20)["mse"] < 0.6 * functional.mse_loss(noisy, clean).item()


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        (
            "masked",
            {"backbone": "resnet50"},
            "masked trains an autoencoder, not resnet50. Give --backbone vqae",
        ),
        (
            "spark",
            {"backbone": "vqae"},
            "spark masks the four maps of torchvision's ResNets, not vqae. Give --backbone resnet18 or",
        ),
        ("masked", {"reconstruct.size": 30}, "reconstruct.size 30 is no multiple of 4 from 16 on"),
        ("denoise", {"reconstruct.size": 12}, "reconstruct.size 12 is no multiple of 4 from 16 on"),
        ("masked", {"reconstruct.shares": "0.2,1"}, "shares 0.2,1: a square hides nothing, or all. Give shares"),
        ("masked", {"reconstruct.shares": "0"}, "shares 0: a square"),
        ("masked", {"reconstruct.shares": ".1,.2,.3", "epochs": 2}, "has 3 stages for 2 epochs"),
        ("masked", {"reconstruct.mask_by": "volume"}, "'volume' is unknown"),
        ("denoise", {"reconstruct.noise": 0}, "reconstruct.noise 0 is not positive"),
        ("next-slice", {"reconstruct.max_mm": -1}, "reconstruct.max_mm -1 is not positive"),
        ("denoise", {"orientation.size": 32}, "belongs to another method than denoise"),
    ],
)
def test_what_makes_no_sense_is_refused(method, overrides, message):
    with pytest.raises(UsageError, match=message):
        resolve(method, overrides=overrides)
