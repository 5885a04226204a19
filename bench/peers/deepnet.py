"""Cosines of what a network makes of slices: compute(slices, model) -> (n, n)."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity, interpolate, normalize

from bench.peers import Peer
from lim_gpu.similarity.deepnet import MEAN, SIDE, STD

L = 255.0


def _normalized(grey: torch.Tensor) -> torch.Tensor:
    """float (k, 1, H, W) in 0..1, as torchvision's transforms have it."""
    small = interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values, device=grey.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (small - mean) / std


def torchvision_cosines(slices: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """A slice at a time, by torchvision's own transforms."""
    from torchvision.transforms import v2

    transform = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Resize((SIDE, SIDE), antialias=True), v2.Normalize(MEAN, STD)]
    )
    with torch.no_grad():
        unit = normalize(torch.cat([model(transform(pixels.expand(3, -1, -1))[None]) for pixels in slices]))
    return unit @ unit.T


def torch_cosines(slices: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """As one would write it, in batches."""
    with torch.no_grad():
        outputs = torch.cat([model(_normalized(batch[:, None].float() / L)) for batch in slices.split(64)])
    return cosine_similarity(outputs[:, None], outputs[None], dim=2)


DEEPNET = (
    Peer("torchvision", "torchvision", torchvision_cosines, tolerance=2e-3),
    Peer("torch, batched", "torch", torch_cosines, tolerance=2e-3),
)
