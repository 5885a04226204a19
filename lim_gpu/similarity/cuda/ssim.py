"""SSIM of every pair of slices on the GPU: kernels/ssim.cu. The definition stands in lim_gpu/similarity/ssim.py."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from lim_gpu.errors import InputError
from lim_gpu.similarity.cuda.blocks import Block, block_size, memory_for_blocks, over_pairs, square_matrix
from lim_gpu.similarity.cuda.module import Module, load
from lim_gpu.similarity.ssim import K1, K2, RADIUS, WINDOW, gaussian

WARP = 32
PLAIN_THREADS = 128


class Shape(NamedTuple):
    """How a block of threads covers a row: `strips` of threads * columns - 10 windows, in rows of `pitch` floats."""

    threads: int
    strips: int
    pitch: int


class Planes(NamedTuple):
    """Centred pixels, deviations and spreads (k, 3, H, pitch) of k slices, and what was taken off (k), scaled."""

    planes: torch.Tensor
    offset: torch.Tensor


def ssim_matrix(
    slices: torch.Tensor,
    data_range: float,
    *,
    device: torch.device | None = None,
    budget: int | None = None,
    module: Module | None = None,
) -> torch.Tensor:
    """SSIM of every pair of slices (n, H, W), uint8 or float32, as float32 (n, n) in [-1, 1], ones on the diagonal.

    data_range  maximum - minimum that the values can have
    device      where to compute, by default where the slices lie; slices in host memory are copied in blocks
    budget      bytes of device memory for blocks of slices, by default most of what is free
    module      the kernels, by default those of the GPU

    A pair's value depends on its two slices alone, bit for bit: not on n, their order, or the blocks.
    Raises InputError for slices smaller than 11 x 11 and LimGpuError when two slices do not fit in the memory.
    """
    n, height, width = slices.shape
    if min(height, width) < WINDOW:
        raise InputError(f"slices of {height} x {width} pixels: SSIM needs at least {WINDOW} x {WINDOW}")
    module = module or load("ssim")
    device = device or slices.device
    matrix = square_matrix(n, 1, device)
    shape = strip_shape(width, module)
    scale = 2.0 ** -round(math.log2(data_range))
    half_c1, half_c2 = ((k * data_range * scale) ** 2 / 2 for k in (K1, K2))
    tail = _upload(np.cumsum(gaussian()[::-1])[:RADIUS][::-1], device)

    def prepare(first: int, last: int) -> Planes:
        return _planes(slices[first:last].to(device), scale, half_c2, tail, shape, module)

    def compare(x: Block[Planes], y: Block[Planes]) -> None:
        tiles = -(-len(x.content.planes) // module.constants["X_TILE"]) * -(
            -len(y.content.planes) // module.constants["Y_TILE"]
        )
        module.launch(
            "ssim_pairs", tiles, shape.threads, x=x.content.planes, x_offset=x.content.offset, y=y.content.planes,
            y_offset=y.content.offset, tail=tail, matrix=matrix, W=width, x_first=x.first, y_first=y.first,
            half_c1=half_c1, half_c2=half_c2,
        )  # fmt: skip

    bytes_per_slice = 3 * height * shape.pitch * 4 + height * width * slices.element_size()
    budget = memory_for_blocks(device) if budget is None else budget
    over_pairs(n, block_size(n, bytes_per_slice, budget), prepare, compare)
    return matrix


def ssim_matrix_plain(slices: torch.Tensor, data_range: float, *, module: Module | None = None) -> torch.Tensor:
    """The same matrix by the plain kernel, straight from the definition: the specification and the baseline."""
    module = module or load("ssim")
    n = len(slices)
    matrix = square_matrix(n, 1, slices.device)
    weights = _upload(gaussian(), slices.device)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    kernel = "ssim_plain_u8" if slices.dtype == torch.uint8 else "ssim_plain_f32"
    module.launch(kernel, n * n, PLAIN_THREADS, slices=slices, weights=weights, matrix=matrix, c1=c1, c2=c2)
    return matrix


def strip_shape(width: int, module: Module) -> Shape:
    """The fewest strips of at most MAX_THREADS threads, and the fewest warps for them."""
    columns, windows = module.constants["COLUMNS"], width - 2 * RADIUS
    strips = -(-windows // (module.constants["MAX_THREADS"] * columns - 2 * RADIUS))
    threads = -(-(-(-windows // strips) + 2 * RADIUS) // (columns * WARP)) * WARP
    return Shape(threads, strips, strips * (threads * columns - 2 * RADIUS) + 2 * RADIUS)


def _planes(
    slices: torch.Tensor, scale: float, half_c2: float, tail: torch.Tensor, shape: Shape, module: Module
) -> Planes:
    """What belongs to single slices (k, H, W) on the device, computed once."""
    n, height, _ = slices.shape
    low, high = torch.aminmax(slices.flatten(1), dim=1)
    offset = ((low.double() + high.double()) / 2).floor() if slices.dtype == torch.uint8 else low / 2 + high / 2
    offset = offset.float()
    planes = torch.empty((n, 3, height, shape.pitch), dtype=torch.float32, device=slices.device)
    center = "ssim_center_u8" if slices.dtype == torch.uint8 else "ssim_center_f32"
    rows = min(height, 32)
    module.launch(center, (n, rows), 128, slices=slices, offset=offset, planes=planes, scale=scale)
    W = slices.shape[2]
    module.launch("ssim_fields", (n, shape.strips), shape.threads, planes=planes, tail=tail, W=W, half_c2=half_c2)
    return Planes(planes, offset * scale)


def _upload(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)
