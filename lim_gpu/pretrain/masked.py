"""Sparse convolution by masking: a ResNet that sees only the kept cells of its input (SparK, Tian et al. 2023).

A convolution followed by a mask computes at the kept positions what a sparse one would. Batch normalisation is torch's
own, on the kept positions alone; every image keeps equally many cells, so that their number is a constant and nothing
waits for the device. The mask is an argument of every function; the network stays a plain torchvision ResNet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lim_gpu.errors import UsageError

STRIDE = 32  # pixels a cell: the stride of a ResNet's last map


class Mask:
    """Which cells of a batch are kept: `cells` (B, 1, h, w) bool, the same number `kept` in every image."""

    def __init__(self, cells: Tensor, kept: int) -> None:
        self.cells, self.kept = cells, kept
        self._enlarged: dict[int, Tensor] = {}
        self._places: dict[int, Tensor] = {}

    def over(self, x: Tensor) -> Tensor:
        """The mask at the resolution of `x` (B, C, H, W): (B, 1, H, W) bool."""
        scale = self._scale(x)
        if scale not in self._enlarged:
            self._enlarged[scale] = self.cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return self._enlarged[scale]

    def places(self, x: Tensor) -> Tensor:
        """The kept positions of each image of `x` (B, C, H, W), row W + column: (B, K), cell after cell."""
        scale = self._scale(x)
        if scale not in self._places:
            side = self.cells.shape[3]
            kept_first = self.cells.flatten(1).int().argsort(dim=1, descending=True, stable=True)
            cell = kept_first[:, : self.kept, None]
            within = torch.arange(scale, device=cell.device)
            row, column = cell // side * scale + within, cell % side * scale + within  # (B, kept, scale)
            self._places[scale] = (row[..., None] * side * scale + column[..., None, :]).flatten(1)
        return self._places[scale]

    def _scale(self, x: Tensor) -> int:
        return x.shape[2] // self.cells.shape[2]


def draw_cells(images: int, side: int, kept: int, generator: torch.Generator) -> Tensor:
    """Which `kept` of side x side cells each image keeps, (images, 1, side, side) bool; all choices equally likely."""
    order = torch.rand(images, side * side, generator=generator).argsort(1)[:, :kept]
    return torch.zeros(images, side * side, dtype=torch.bool).scatter_(1, order, True).view(images, 1, side, side)


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, mask: Mask) -> Tensor:
    """`norm` over the kept positions of `x` (B, C, H, W), zero elsewhere, in the memory format of `x`."""
    places = mask.places(x)
    normalised: Tensor = norm(Taken.apply(x, places))
    placed: Tensor = Placed.apply(normalised, places, x.shape[2:])
    return placed


class Taken(torch.autograd.Function):
    """Values (B, C, 1, K) of x (B, C, H, W) at places (B, K) of H W, none twice, so that `Placed` is its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        """The values, in the memory format of x."""
        ctx.save_for_backward(places)
        ctx.shape = x.shape[2:]
        return _taken(x, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Of the values to that of x, zero elsewhere."""
        (places,) = ctx.saved_tensors
        return _placed(gradient, places, ctx.shape), None


class Placed(torch.autograd.Function):
    """Values (B, C, 1, K) put at places (B, K) of H W into zeros (B, C, H, W). Its derivative is `Taken`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        """The map, in the memory format of the values; shape: (H, W)."""
        ctx.save_for_backward(places)
        return _placed(values, places, shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Of the map to that of the values."""
        return _taken(gradient, *ctx.saved_tensors), None, None


def _taken(x: Tensor, places: Tensor) -> Tensor:
    if x.is_contiguous():
        return x.flatten(2).gather(2, _of_all(places, x)).unsqueeze(2)
    last = x.permute(0, 2, 3, 1).flatten(1, 2)  # B, H W, C: of channels_last as it lies
    return last.gather(1, _of_all(places, x).mT).mT.unsqueeze(2)


def _placed(values: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    layout = torch.contiguous_format if values.is_contiguous() else torch.channels_last
    x = torch.empty(*values.shape[:2], *shape, dtype=values.dtype, device=values.device, memory_format=layout).zero_()
    x.flatten(2).scatter_(2, _of_all(places, values), values.squeeze(2))
    return x


def _of_all(places: Tensor, x: Tensor) -> Tensor:
    """The same places (B, K) in each channel of x: (B, C, K)."""
    return places[:, None].expand(-1, x.shape[1], -1)


def maps(encoder: Any, images: Tensor, mask: Mask, drop: Tensor | None = None) -> list[Tensor]:
    """The maps after layer1 to layer4 of a torchvision ResNet, of strides 4 to 32, zero where nothing was kept.

    images  (B, C, H, W), a cell of the mask for each 32 x 32 pixels; what the mask hides has no influence
    drop    (blocks, B): the factor of each residual branch, 0 or 1 / (1 - p) (stochastic depth); None: all 1

    Raises UsageError for images of another size than the mask's.
    """
    if tuple(images.shape[2:]) != tuple(STRIDE * side for side in mask.cells.shape[2:]):
        height, width = images.shape[2:]
        raise UsageError(f"images of {height} x {width} are not masked in cells of {STRIDE} x {STRIDE}. Give multiples")
    x = encoder.conv1(images * mask.over(images))
    x = encoder.maxpool(encoder.relu(batch_norm(encoder.bn1, x, mask)))
    x = x * mask.over(x)
    factors = iter(drop) if drop is not None else None
    found = []
    for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in layer:
            x = _block(block, x, mask, next(factors) if factors else None)
        found.append(x)
    return found


def _block(block: Any, x: Tensor, mask: Mask, factor: Tensor | None) -> Tensor:
    """torchvision's BasicBlock or Bottleneck."""
    out = block.relu(batch_norm(block.bn1, block.conv1(x), mask))
    out = batch_norm(block.bn2, block.conv2(out), mask)
    if hasattr(block, "conv3"):
        out = batch_norm(block.bn3, block.conv3(block.relu(out)), mask)
    if factor is not None:
        out = out * factor.view(-1, 1, 1, 1).to(out.dtype)
    if block.downsample is not None:
        convolution, norm = block.downsample
        x = batch_norm(norm, convolution(x), mask)
    return block.relu(out + x)


def residual_blocks(encoder: Any) -> list[Any]:
    """Those of a torchvision ResNet, from the images on."""
    return [block for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4) for block in layer]
