"""HU to 0..255 on the GPU, and checksums of what came there: kernels/intensity.cu, the bits of the definitions."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.cuda.module import Module, load
from lim_gpu.intensity.definition import Limits

SLICE_THREADS = 1024
WINDOW_THREADS = 256
MOST_BLOCKS = 1 << 16
OWN = (1.0, 0.0)  # an empty range stands for each slice's own


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


def to_uint8_summed(
    slices: torch.Tensor, limits: Limits, *, module: Module | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices (n, H, W), n >= 1, as uint8, and fletcher32 (n,) of each as it came, in one reading.

    int16 slices are mapped as by `to_uint8`, uint8 slices stay as they are. The checksums are int32 with the bits of
    uint32, as `lim_gpu.store.fletcher.of_slices` gives them, of slices of at most 4096 x 4096, the largest of a store.
    """
    module = module or load("intensity")
    checksums = torch.empty(len(slices), dtype=torch.int32, device=slices.device)
    flat: dict[str, Any] = {"slices": slices.flatten(1), "checksums": checksums}
    if slices.dtype == torch.uint8:
        module.launch("intensity_sums_u8", len(slices), SLICE_THREADS, **flat)
        return slices, checksums
    mapped = torch.empty(slices.shape, dtype=torch.uint8, device=slices.device)
    low, high = limits or OWN
    flat["mapped"] = mapped.flatten(1)
    module.launch("intensity_summed", len(slices), SLICE_THREADS, **flat, low=float(low), high=float(high))
    return mapped, checksums
