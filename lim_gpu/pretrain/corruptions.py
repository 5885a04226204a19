"""What is done to an image (n, 1, S, S) in 0..1 before a network restores it, and what restores it without one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MEDIAN = 5  # pixels a side


def draw_squares(n: int, size: int, side: int, margin: int, generator: torch.Generator) -> Tensor:
    """Squares (n, 3), int64: top, left, side; anywhere but in the last `margin` rows and columns, all places alike."""
    corners = torch.randint(size - margin - side + 1, (n, 2), generator=generator)
    return torch.cat([corners, torch.full((n, 1), side)], dim=1)


def square_side(size: int, share: float, by: str) -> int:
    """Pixels a side, 1 or more, of a square: `share` of the "area" of an image, or of its "side", rounded down."""
    return max(1, int(size * share) if by == "side" else round(size * math.sqrt(share)))


def inside(squares: Tensor, size: int) -> Tensor:
    """Which pixels (n, 1, size, size) lie in squares (n, 3)."""
    places = torch.arange(size, device=squares.device)
    top, left, side = squares[:, :, None].unbind(1)  # (n, 1)
    rows, columns = ((places >= start) & (places < start + side) for start in (top, left))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def salt_and_pepper(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Images with about `share` of their pixels black or white, as many of each.

    Drawn on the device of the images: the CPU and the GPU give different noise.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    drawn = torch.empty_like(images).uniform_(generator=torch.Generator(images.device).manual_seed(seed))
    return torch.where(drawn < share, (drawn < share / 2).to(images.dtype), images)


def median(images: Tensor) -> Tensor:
    """The median of 5 x 5 pixels around each, edges mirrored as SciPy's "mirror": denoising without a network."""
    padded = functional.pad(images, (MEDIAN // 2,) * 4, mode="reflect")
    windows = padded.unfold(-2, MEDIAN, 1).unfold(-2, MEDIAN, 1).flatten(-2)
    return windows.median(-1).values
