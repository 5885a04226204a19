"""What every peer gets: slices of a procedural CT, volumes of any size, and data sets shaped like the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from lim_gpu.phantom import NOISE, phantom

SIZE = 512
BASE = 40  # slices painted by the phantom; the others lie between them
PIECE = 64  # slices made at a time


@dataclass(frozen=True)
class DataSet:
    """The shape of a data set of Wolf et al. 2024 (Table 1), and the hours that it reports for its reduction.

    SSIM, MI and DeepNet ran on an NVIDIA GeForce RTX 3090. How its slices are spread over its volumes the paper does
    not say: `spread`, the standard deviation of the logarithm of a volume's slices, is our assumption.
    """

    name: str
    volumes: int
    slices: int
    spread: float
    hours: dict[str, int]

    def sizes(self) -> list[int]:
        """Slices of every volume: drawn with a fixed seed, in a random order, their sum exact."""
        drawn = np.random.default_rng(2024).lognormal(0, self.spread, self.volumes)
        sizes = np.floor(drawn / drawn.sum() * self.slices).astype(int)
        sizes[: self.slices - sizes.sum()] += 1  # fewer than there are volumes
        return sizes.tolist()


LIDC = DataSet("LIDC-shaped", 1010, 244_527, 0.35, {"SSIM": 53, "MI": 48, "DeepNet": 2})
PET_CT = DataSet("PET-CT-shaped", 900, 541_439, 0.25, {"SSIM": 421, "MI": 312, "DeepNet": 6})


@cache
def _base(device: str, size: int) -> torch.Tensor:
    """HU int16 (BASE, size, size) of a chest."""
    return torch.from_numpy(phantom("chest", BASE, size, size, seed=1)).to(device)


def volume(n: int, device: str, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """uint8 (n, size, size) on `device`: a chest cut into n slices with its own noise, shifted by the seed.

    Each slice is mapped by its own minimum..maximum. Made on the device, PIECE slices at a time.
    """
    base = _base(device, size)
    generator = torch.Generator(device).manual_seed(seed)
    slices = torch.empty((n, size, size), dtype=torch.uint8, device=device)
    at = torch.linspace(0, BASE - 1, n)
    for start in range(0, n, PIECE):
        z = at[start : start + PIECE]
        below = z.floor().clamp(max=BASE - 2)
        weight = (z - below).to(device)[:, None, None]
        hu = torch.lerp(base[below.long()].float(), base[below.long() + 1].float(), weight)
        hu += NOISE * torch.randn(hu.shape, generator=generator, device=device)
        hu = hu.round_().roll(7 * seed % size, dims=2)
        low, high = hu.amin((1, 2), keepdim=True), hu.amax((1, 2), keepdim=True)
        slices[start : start + PIECE] = ((hu - low) / (high - low) * 255).round_()
    return slices


def random_hashes(n: int, device: str) -> torch.Tensor:
    """int64 (n,): hashes in groups of near copies, as neighbouring slices give them.

    A group has 8 hashes, each its first with up to 4 random bits flipped.
    """
    generator = torch.Generator().manual_seed(7)
    first = torch.randint(-(2**63), 2**63 - 1, (-(-n // 8),), generator=generator).repeat_interleave(8)[:n]
    for _ in range(4):
        flips = torch.randint(0, 64, (n,), generator=generator)
        first ^= torch.where(torch.arange(n) % 8 == 0, 0, torch.ones((), dtype=torch.int64) << flips)
    return first.to(device)
