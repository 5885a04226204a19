"""HU to 0..255 on the GPU: kernels/intensity.cu, the bits of the definition."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.cuda.module import Module, load
from lim_gpu.intensity.definition import Limits

SLICE_THREADS = 1024
WINDOW_THREADS = 256
MOST_BLOCKS = 1 << 16


def to_uint8(slices: torch.Tensor, limits: Limits, *, module: Module | None = None) -> torch.Tensor:
    """Map int16 slices (n, H, W) by `limits` to uint8 on their device."""
    mapped = torch.empty(slices.shape, dtype=torch.uint8, device=slices.device)
    if not slices.numel():
        return mapped
    module = module or load("intensity")
    flat: dict[str, Any] = {"slices": slices.flatten(1), "mapped": mapped.flatten(1)}
    if limits is None:
        module.launch("intensity_minmax", len(slices), SLICE_THREADS, **flat)
    else:
        low, high = limits
        blocks = min(-(-slices.numel() // WINDOW_THREADS), MOST_BLOCKS)
        module.launch("intensity_window", blocks, WINDOW_THREADS, **flat, low=float(low), high=float(high))
    return mapped
