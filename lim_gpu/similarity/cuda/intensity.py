"""HU to 0..255 on the GPU: kernels/intensity.cu. The definition stands in lim_gpu/intensity.py."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.cuda.module import Module, load
from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity

SLICE_THREADS = 1024
WINDOW_THREADS = 256
MOST_BLOCKS = 1 << 16


def to_uint8(slices: torch.Tensor, intensity: Intensity, *, module: Module | None = None) -> torch.Tensor:
    """Map int16 slices (n, H, W) to uint8 on their device; uint8 slices are returned as they are.

    Bit for bit the result of `Intensity.to_uint8`. Raises InputError for another dtype.
    """
    if slices.dtype == torch.uint8:
        return slices
    if slices.dtype != torch.int16:
        raise InputError(f"slices of {slices.dtype} have no HU. Give int16 (HU) or uint8 (grey values)")
    mapped = torch.empty(slices.shape, dtype=torch.uint8, device=slices.device)
    if not slices.numel():
        return mapped
    module = module or load("intensity")
    flat: dict[str, Any] = {"slices": slices.flatten(1), "mapped": mapped.flatten(1)}
    if intensity.limits is None:
        module.launch("intensity_minmax", len(slices), SLICE_THREADS, **flat)
    else:
        low, high = intensity.limits
        blocks = min(-(-slices.numel() // WINDOW_THREADS), MOST_BLOCKS)
        module.launch("intensity_window", blocks, WINDOW_THREADS, **flat, low=float(low), high=float(high))
    return mapped
