"""SparK (Tian et al. 2023): a ResNet sees the kept cells of a slice, and a light decoder paints the masked ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.masked import STRIDE, Mask, batch_norm, draw_cells, maps, residual_blocks
from lim_gpu.pretrain.method import ASPECT, COMPILING, SPREAD, Meter, Pretraining, spread
from lim_gpu.weights.backbone import features

if TYPE_CHECKING:
    from lim_gpu.pretrain.resident import SliceBatch

EPSILON = 1e-6  # added to the variance of a patch
STD = 0.02  # of the decoder's first weights and the mask tokens, as in the published code


class SparK(Pretraining):
    """Masked encoder, densification of its four maps and a decoder of five doublings.

    The masks, like everything random, are a view of the step. Under several processes each normalises over its own
    kept positions, as plain BatchNorm does.
    """

    meters: ClassVar[Mapping[str, Meter]] = {
        "loss": Meter("variances of a patch", "squared error of the masked patches, each normalised to its own"),
        "baseline": Meter("variances of a patch", "the loss of painting nothing: 1 less the flat patches"),
        "flat_share": Meter("share", "of the masked patches that vary by less than the floor"),
    } | SPREAD

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__(config, slices)
        spark = self.spark = config.spark
        self.side = spark.size // STRIDE
        self.kept = round(self.side**2 * (1 - spark.mask_ratio))
        deepest, width = features(config.backbone), spark.decoder_width
        self.densify = nn.ModuleList(
            Densify(deepest >> i, width >> i, kernel=3 if i else 1)
            for i in range(4)  # smallest map first
        )
        self.decoder = nn.ModuleList(decoder_block(width >> i) for i in range(5))
        self.paint = nn.Conv2d(width >> 5, config.channels, 1)
        begin_branches(self.encoder)
        begin_decoder(self.decoder)
        begin_decoder(self.paint)
        self.no_weight_decay = {name for name, _ in self.named_parameters() if name.endswith(".token")}
        self.maps = torch.compile(maps, **COMPILING) if config.compile else maps
        grey = torch.tensor(config.std).mul(255).pow(-2).mean()  # (a grey level, normalised)^2, mean over channels
        self.floor = spark.variance_floor**2 * float(grey)

    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """[images (B, C, S, S), kept cells (B, 1, S/32, S/32) bool, factors of the residual branches (blocks, B)]."""
        spark, device = self.spark, batch.pixels.device
        images = augment.random_resized_crop(
            batch.pixels, batch.sizes, spark.size, spark.scale, ASPECT, generator, spark.interpolation
        )
        images = self.normalized(augment.flip(images, spark.flip, generator))
        cells = draw_cells(len(images), self.side, self.kept, generator)
        rate = torch.linspace(0, spark.drop_path, len(residual_blocks(self.encoder)))[:, None]
        branches = (torch.rand(len(rate), len(images), generator=generator) >= rate) / (1 - rate)
        return [images, cells.to(device, non_blocking=True), branches.to(device, non_blocking=True)]

    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """Squared error of the masked patches, each normalised to its own mean and variance."""
        images, cells, branches = views
        mask = Mask(cells, self.kept)
        found = self.maps(self.encoder, images, mask, branches)
        painted = self.decode(found, mask)
        with torch.autocast(images.device.type, enabled=False):
            masked = ~cells.flatten(1)
            target, variance = normalized_patches(images.float(), self.floor)
            share = masked / (len(images) * (self.side**2 - self.kept))  # sums to 1
            loss = ((patches(painted.float()) - target).square().mean(-1) * share).sum()
            return {
                "loss": loss,
                "baseline": (target.square().mean(-1) * share).sum(),
                "flat_share": ((variance < self.floor) * share).sum(),
            } | spread(functional.normalize(found[-1].detach().float().sum((2, 3)), dim=1))

    def decode(self, found: list[Tensor], mask: Mask) -> Tensor:
        """Images (B, C, S, S) painted from the four maps of the encoder."""
        x: Tensor | None = None
        for block, densify, sparse in zip(self.decoder, self.densify, reversed(found), strict=False):
            dense = densify(sparse, mask)
            x = block(dense if x is None else x + dense)
        return self.paint(self.decoder[-1](x))


class Densify(nn.Module):
    """A sparse map made dense: normalised, a learned token where nothing was kept, projected to the decoder's width."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, channels, 1, 1), std=STD, a=-STD, b=STD))
        self.project = nn.Conv2d(channels, width, kernel, padding=kernel // 2)

    def forward(self, sparse: Tensor, mask: Mask) -> Tensor:
        """(B, channels, h, w) to (B, width, h, w)."""
        x = batch_norm(self.norm, sparse, mask)
        return self.project(torch.where(mask.over(x), x, self.token.to(x.dtype)))


def decoder_block(width: int) -> nn.Sequential:
    """Twice the resolution and half the width."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
        nn.BatchNorm2d(width // 2),
    )


def begin_branches(encoder: nn.Module) -> None:
    """Every residual branch begins at 0, as timm's ResNets do, which the published code trains."""
    for block in residual_blocks(encoder):
        nn.init.zeros_(getattr(block, "bn3", block.bn2).weight)


def begin_decoder(part: nn.Module) -> None:
    """First weights as in the published code: 0.02 wide, those of the doublings by He's fan-out, no biases."""
    for module in part.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=STD)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


def patches(images: Tensor) -> Tensor:
    """(B, C, H, W) as (B, cells, pixels x C), a row a cell of 32 x 32 pixels."""
    cells = images.unflatten(3, (-1, STRIDE)).unflatten(2, (-1, STRIDE))  # B, C, h, 32, w, 32
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def normalized_patches(images: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Patches less their mean over their standard deviation, and their variances (B, cells), unbiased.

    A variance below `floor` counts as `floor`: the noise of air is not stretched to a picture. 0: as published.
    """
    rows = patches(images)
    variance, mean = torch.var_mean(rows, dim=-1, keepdim=True)
    return (rows - mean) / (variance.clamp_min(floor) + EPSILON).sqrt(), variance.squeeze(-1)
