"""Sparse convolution by masking: a ResNet that sees only the kept cells of its input (SparK, Tian et al. 2023).

A dense operation followed by a multiplication with the mask computes at the kept positions what a sparse one would, and
every image keeps equally many cells, so the number of kept positions is a constant: nothing is gathered, and nothing
waits for the device. The mask is an argument of every function; the network stays a plain torchvision ResNet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lim_gpu.errors import UsageError

STRIDE = 32  # pixels a cell: the stride of a ResNet's last map


class Mask:
    """Which cells of a batch are kept: `cells` (B, 1, h, w) bool, the same number `kept` in every image."""

    def __init__(self, cells: Tensor, kept: int) -> None:
        self.cells, self.kept = cells, kept
        self._enlarged: dict[int, Tensor] = {}

    def over(self, x: Tensor) -> Tensor:
        """The mask at the resolution of `x` (B, C, H, W): (B, 1, H, W) bool."""
        scale = x.shape[2] // self.cells.shape[2]
        if scale not in self._enlarged:
            self._enlarged[scale] = self.cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return self._enlarged[scale]

    def count(self, x: Tensor) -> int:
        """Number of kept positions in a map like `x`, over the batch."""
        return len(x) * self.kept * (x.shape[2] // self.cells.shape[2]) ** 2


def draw_cells(images: int, side: int, kept: int, generator: torch.Generator) -> Tensor:
    """Which `kept` of side x side cells each image keeps, (images, 1, side, side) bool; all choices equally likely."""
    order = torch.rand(images, side * side, generator=generator).argsort(1)[:, :kept]
    return torch.zeros(images, side * side, dtype=torch.bool).scatter_(1, order, True).view(images, 1, side, side)


def batch_norm(norm: Any, x: Tensor, mask: Mask) -> Tensor:
    """BatchNorm2d `norm` over the kept positions of `x` (B, C, H, W), zero elsewhere; sums in float32 or wider.

    Equal to `norm` on the gathered positions, running statistics included (their variance is the unbiased one). The
    result has the type of `x`.
    """
    where, count = mask.over(x), mask.count(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if norm.training:
        mean = (wide * where).sum((0, 2, 3)) / count
        centred = (wide - _channels(mean)) * where
        variance = centred.square().sum((0, 2, 3)) / count
        _track(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    else:
        mean, variance = norm.running_mean, norm.running_var
        centred = (wide - _channels(mean)) * where
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (centred * _channels(scale) + where * _channels(norm.bias)).to(x.dtype)


@torch.no_grad()
def _track(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), norm.momentum)


def _channels(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


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
