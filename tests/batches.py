"""Batches of procedural slices, for the tests of pre-training."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom
from lim_gpu.pretrain.resident import SliceBatch

SLICES = 16  # of each volume
HEIGHT, WIDTH = 96, 80


@cache
def slices() -> tuple[Tensor, Tensor]:
    """96 slices of six procedural volumes, uint8 (96, 96, 80), and the number of each one's volume."""
    kinds = ("chest", "abdomen", "head") * 2
    volumes = [phantom(kind, SLICES, HEIGHT, WIDTH, seed) for seed, kind in enumerate(kinds)]
    pixels = [torch.from_numpy(Intensity().to_uint8(hu)) for hu in volumes]
    return torch.cat(pixels), torch.arange(len(kinds)).repeat_interleave(SLICES)


def batch(ids: Tensor) -> SliceBatch:
    """The slices `ids` of `slices`; after the last of all comes the first."""
    pixels, volumes = slices()
    sizes, following = torch.tensor([[HEIGHT, WIDTH]]).repeat(len(ids), 1), pixels[(ids + 1) % len(pixels)]
    return SliceBatch(pixels[ids], sizes, ids, volumes[ids], following)
