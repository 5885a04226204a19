"""SSIM and MI of pairs of slices: compute(slices, pairs) -> values (len(pairs),)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from bench.peers import Peer
from lim_gpu.similarity.ssim import K1, K2, WINDOW, gaussian

L = 255.0
BINS = 100
BATCH = {"cpu": 2, "cuda": 32}  # pairs at a time; five float maps of 512 x 512 a pair

Pairs = list[tuple[int, int]]


def one_by_one(similarity: Callable[[Any, Any], Any], convert: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    """compute(slices, pairs) -> values, of a library that takes one pair at a time."""

    def compute(slices: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        images = convert(slices)
        values = [float(similarity(images[i], images[j])) for i, j in pairs]
        return torch.tensor(values, dtype=torch.float64)

    return compute


def in_batches(similarity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """compute(slices, pairs) -> values, of a library that takes batches (k, 1, H, W) of float32 in 0..255."""

    def compute(slices: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        with torch.no_grad():
            batches = torch.tensor(pairs, device=slices.device).split(BATCH[slices.device.type])
            return torch.cat([similarity(*(slices[ends, None].float() for ends in batch.T)) for batch in batches])

    return compute


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


def cupy(tensor: torch.Tensor) -> Any:
    import cupy as module

    return module.from_dlpack(tensor)


SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": L}


def scikit_image_ssim(x: np.ndarray, y: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    return structural_similarity(x, y, **SKIMAGE)


def cucim_ssim(x: Any, y: Any) -> Any:
    from cucim.skimage.metrics import structural_similarity

    return structural_similarity(x, y, **SKIMAGE)


def pytorch_msssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from pytorch_msssim import ssim

    return ssim(x, y, data_range=L, size_average=False)


def torchmetrics_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, maps = structural_similarity_index_measure(x, y, data_range=L, reduction="none", return_full_image=True)
    return maps[..., 5:-5, 5:-5].mean((1, 2, 3))  # its own mean is over windows that hang over the border too


def kornia_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from kornia.metrics import ssim

    return ssim(x, y, WINDOW, max_val=L, padding="valid").mean((1, 2, 3))


def fused_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from fused_ssim import FusedSSIMMap  # fused_ssim() itself gives the mean of a batch only

    return FusedSSIMMap.apply(K1**2, K2**2, x / L, y / L, "valid", False).mean((1, 2, 3))


@cache
def _window(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(gaussian()).float().to(device)


def torch_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As one would write it: the five maps filtered along columns, then along rows."""
    w = _window(x.device)
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1).flatten(0, 1)[:, None]
    maps = conv2d(conv2d(maps, w.view(1, 1, -1, 1)), w.view(1, 1, 1, -1))
    mx, my, xx, yy, xy = maps.unflatten(0, (-1, 5)).unbind(1)
    c1, c2 = (K1 * L) ** 2, (K2 * L) ** 2
    above = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    below = (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
    return (above / below).mean((1, 2, 3))


SSIM = (
    Peer("scikit-image", "skimage", one_by_one(scikit_image_ssim, numpy), "cpu", 1e-9),
    Peer("pytorch-msssim", "pytorch_msssim", in_batches(pytorch_msssim)),
    Peer("torchmetrics", "torchmetrics", in_batches(torchmetrics_ssim)),
    Peer("kornia", "kornia", in_batches(kornia_ssim)),
    Peer("torch, batched", "torch", in_batches(torch_ssim)),
    Peer("fused-ssim", "fused_ssim", in_batches(fused_ssim), "cuda"),
    Peer("cucim", "cucim", one_by_one(cucim_ssim, cupy), "cuda"),
)


def scikit_image_mi(x: np.ndarray, y: np.ndarray) -> float:
    from skimage.metrics import normalized_mutual_information

    return normalized_mutual_information(x, y, bins=BINS)


def cucim_mi(x: Any, y: Any) -> Any:
    from cucim.skimage.metrics import normalized_mutual_information

    return normalized_mutual_information(x, y, bins=BINS)


def _numbers(x: torch.Tensor) -> torch.Tensor:
    """Bin numbers (k, pixels) of x (k, 1, H, W), between each image's minimum and maximum."""
    x = x.flatten(1)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return ((x - low) / (high - low) * BINS).long().clamp_(max=BINS - 1)


def torchmetrics_mi(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of its 2 I / (H(X) + H(Y)) = a, Studholme's (H(X) + H(Y)) / H(X, Y) is 2 / (2 - a)."""
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    both = zip(_numbers(x), _numbers(y), strict=True)
    return torch.stack([2 / (2 - normalized_mutual_info_score(a, b)) for a, b in both])


def _entropy(counts: torch.Tensor) -> torch.Tensor:
    p = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(p).sum(1)


def torch_mi(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As one would write it: joint histograms of a batch by one bincount."""
    k = torch.arange(len(x), device=x.device)[:, None]
    joint = torch.bincount((((k * BINS) + _numbers(x)) * BINS + _numbers(y)).flatten(), minlength=len(x) * BINS**2)
    joint = joint.view(-1, BINS, BINS).double()
    return (_entropy(joint.sum(1)) + _entropy(joint.sum(2))) / _entropy(joint.flatten(1))


MI = (
    Peer("scikit-image", "skimage", one_by_one(scikit_image_mi, numpy), "cpu", 1e-9),
    Peer("torchmetrics", "torchmetrics", in_batches(torchmetrics_mi)),
    Peer("torch, batched", "torch", in_batches(torch_mi)),
    Peer("cucim", "cucim", one_by_one(cucim_mi, cupy), "cuda"),
)
