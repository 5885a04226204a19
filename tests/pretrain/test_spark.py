"""SparK: what the loss looks at, targets of flat patches, masks, the decoder."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from batches import batch
from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.masked import residual_blocks
from lim_gpu.pretrain.resident import SliceBatch
from lim_gpu.pretrain.spark import SparK, normalized_patches, patches

TINY = {"backbone": "resnet18", "batch_size": 8, "spark.size": 64, "spark.decoder_width": 64}


def spark(**overrides) -> SparK:
    torch.manual_seed(0)
    changes = {name.replace("spark_", "spark."): value for name, value in overrides.items()}
    return SparK(resolve("spark", overrides=TINY | changes), slices=96)


def test_the_published_mask_keeps_20_of_49_cells():
    method = spark(spark_size=224)
    _, cells, branches = method.views(batch(torch.arange(4)), torch.Generator().manual_seed(0))
    assert cells.shape == (4, 1, 7, 7)
    assert (cells.sum((1, 2, 3)) == 20).all()
    assert branches.shape == (8, 4)
    assert (branches[0] == 1).all()  # the first block is never dropped, the last most often
    _, _, branches = spark(spark_drop_path=0.5).views(batch(torch.arange(64)), torch.Generator().manual_seed(0))
    assert set(branches[-1].tolist()) == {0.0, 2.0}


def test_patches_are_squares_of_32_pixels_row_by_row():
    images = torch.arange(2 * 3 * 64 * 96).view(2, 3, 64, 96)
    rows = patches(images)
    assert rows.shape == (2, 6, 3072)
    for cell in range(6):
        top, left = 32 * (cell // 3), 32 * (cell % 3)
        square = images[1, :, top : top + 32, left : left + 32]
        assert torch.equal(rows[1, cell], square.permute(1, 2, 0).flatten())


def test_targets_are_normalised_patch_by_patch():
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5 + 3
    target, variance = normalized_patches(images, floor=0)
    patch = images[1, :, 32:, :32]
    expected = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
    torch.testing.assert_close(target[1, 2], expected.permute(1, 2, 0).flatten(), rtol=0, atol=1e-12)
    assert variance[1, 2].item() == pytest.approx(patch.var().item())


def air(noise: float) -> SliceBatch:
    """Slices that are noise of `noise` grey levels around 20."""
    grey = torch.randn(8, 64, 64, generator=torch.Generator().manual_seed(0)) * noise + 20
    return batch(torch.arange(8))._replace(
        pixels=grey.round().to(torch.uint8), sizes=torch.tensor([[64, 64]]).repeat(8, 1)
    )


def test_the_noise_of_air_is_not_stretched_to_a_picture():
    whole = {"spark_scale": (1.0, 1.0), "spark_interpolation": "bilinear"}
    stretched = spark(spark_variance_floor=0.0, **whole).training_step(air(1.0), 0)
    assert stretched["baseline"].item() == pytest.approx(1, abs=0.01)  # unit variance, of noise
    assert stretched["flat_share"] == 0
    floored = spark(spark_variance_floor=3.0, **whole).training_step(air(1.0), 0)
    assert floored["baseline"] < 0.2  # about (1 / 3)^2
    assert floored["flat_share"] == 1
    loud = spark(spark_variance_floor=3.0, **whole).training_step(air(12.0), 0)
    assert loud["flat_share"] == 0
    assert loud["baseline"].item() == pytest.approx(1, abs=0.01)


def test_only_masked_patches_count(monkeypatch):
    method, slices = spark(), batch(torch.arange(8))
    views = method.views(slices, torch.Generator().manual_seed(0))
    images, cells, _ = views
    painted = torch.zeros_like(images).requires_grad_()
    monkeypatch.setattr(method, "decode", lambda found, mask: painted)
    found = method.loss(views, slices)
    torch.testing.assert_close(found["loss"], found["baseline"])  # of painting nothing
    found["loss"].backward()
    touched = patches(painted.grad).abs().sum(-1) > 0
    assert torch.equal(touched, ~cells.flatten(1))
    target, _ = normalized_patches(images, method.floor)
    rows = [(target[i, j].square().mean()) for i in range(8) for j in range(4) if not cells[i].flatten()[j]]
    torch.testing.assert_close(found["loss"], torch.stack(rows).mean())


def test_what_is_painted_does_not_depend_on_masked_pixels():
    method, slices = spark(), batch(torch.arange(8))
    images, cells, branches = method.views(slices, torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    method.paint.register_forward_hook(lambda _, args, out: seen.append(out.detach()))
    where = cells.repeat_interleave(32, 2).repeat_interleave(32, 3)
    for pixels in (images, torch.where(where, images, 9.0)):
        method.loss([pixels, cells, branches], slices)
    assert torch.equal(seen[0], seen[1])


def test_the_encoder_begins_as_that_of_timm():
    """Which the published code trains: every residual branch begins at 0."""
    expected = timm.create_model("resnet50", num_classes=0).named_parameters()
    encoder = dict(spark(backbone="resnet50").encoder.named_parameters())
    for name, parameter in expected:
        if parameter.ndim == 1:
            assert torch.equal(encoder[name], parameter), name
        else:  # 0.0128 in 64 filters of 3 x 3
            assert encoder[name].std().item() == pytest.approx(parameter.std().item(), rel=0.05), name


def test_the_decoder_begins_as_published():
    method = spark(spark_decoder_width=256)
    doubling, convolution = method.decoder[0][0], method.decoder[0][1]
    assert doubling.weight.std().item() == pytest.approx((2 / (256 * 16)) ** 0.5, rel=0.01)  # not 0.009, torch's own
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.01)  # not 0.012
    assert method.paint.weight.std().item() == pytest.approx(0.02, rel=0.3)  # 24 of them; not 0.2
    assert all(not doubles[0].bias.any() for doubles in method.decoder)
    assert not method.paint.bias.any()
    tokens = torch.cat([densify.token.flatten() for densify in method.densify])
    assert tokens.abs().max() <= 0.02


@pytest.mark.parametrize(("backbone", "channels"), [("resnet18", 1), ("resnet50", 3)])
def test_every_parameter_trains(backbone, channels):
    method = spark(backbone=backbone, channels=channels, spark_drop_path=0.0)
    for block in residual_blocks(method.encoder):  # they begin at 0, and hide what stands before them for a step
        torch.nn.init.ones_(getattr(block, "bn3", block.bn2).weight)
    method.training_step(batch(torch.arange(8)), 0)["loss"].backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]


def test_mask_tokens_have_no_weight_decay():
    method = spark()
    assert method.no_weight_decay == {f"densify.{i}.token" for i in range(4)}
    for group in method.configure_optimizers().param_groups:
        for p in group["params"]:
            token = any(p is d.token for d in method.densify)
            assert (group["weight_decay"] == 0) == (p.ndim <= 1 or token)


def test_the_loss_stays_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        found = spark().training_step(batch(torch.arange(8)), 0)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert found["loss"].isfinite()


def test_a_size_without_whole_cells_is_refused():
    with pytest.raises(UsageError, match="spark.size 100 is no multiple of 32"):
        spark(spark_size=100)
