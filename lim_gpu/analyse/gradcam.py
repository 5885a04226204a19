"""Grad-CAM heat maps (Selvaraju et al. 2017; the paper's Figure 12) before and after fine-tuning, and their overlap.

A fine-tuned network is asked for the class it predicts. A pre-trained one has no classes: it is asked for the length of
its feature vector, the direction in which the image excites it most. The paper gives no threshold for its intersection
over union; here a pixel counts where the map, scaled to 0..1 for each image, is at least `threshold`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.analyse.networks import Probe
from lim_gpu.errors import UsageError
from lim_gpu.network import Network
from lim_gpu.weights.maps import FeatureMaps, stages_of
from lim_gpu.weights.names import is_timm


class _Predicted:
    """The score of the predicted class, or the length of the features."""

    def __init__(self, classifies: bool) -> None:
        self.classifies = classifies

    def __call__(self, output: Tensor) -> Tensor:
        return output.max() if self.classifies else output.norm()


def heat_maps(network: Network, probe: Probe, batch: int = 16) -> NDArray[np.float32]:
    """(n, S, S) in 0..1, of the last map of the backbone. Raises UsageError for one without maps."""
    from pytorch_grad_cam import GradCAM

    stage = _last_stage(network, next(probe.inputs(network, 1)))
    maps = []
    with GradCAM(model=network, target_layers=[network.encoder.get_submodule(stage)]) as camera:
        for images in probe.inputs(network, batch):
            targets = [_Predicted(network.head is not None)] * len(images)
            maps.append(camera(input_tensor=images, targets=targets))
    return np.concatenate(maps).astype(np.float32)


@torch.no_grad()
def _last_stage(network: Network, image: Tensor) -> str:
    """The module that puts out the last map (1, C, h, w): some of timm's put out tokens, or have C last."""
    stage = stages_of(network.name, network.encoder)[-1]
    found = FeatureMaps([stage])(network.encoder, image)[0]
    if is_timm(network.name):
        information: Any = network.encoder.feature_info
        if found.ndim != 4 or found.shape[1] != information[-1]["num_chs"]:
            what = f"Grad-CAM needs maps of channels first, which {network.name} does not give"
            raise UsageError(f"{what}. Give `analyse probe` or `analyse tsne`, which compare features")
    return stage


def intersection_over_union(a: NDArray[np.float32], b: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """(n,) in 0..1 of the pixels at or above `threshold` in maps (n, S, S); NaN where neither map has any."""
    x, y = a >= threshold, b >= threshold
    union = (x | y).sum(axis=(1, 2))
    both = (x & y).sum(axis=(1, 2))
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A slice (S, S) as colour (S, S, 3) with its map (S, S) laid over it."""
    import matplotlib

    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    grey = image[..., None].astype(np.float32)
    weight = 0.55 * heat[..., None]
    return np.asarray((1 - weight) * grey + weight * colours).round().clip(0, 255).astype(np.uint8)


def as_grey(pixels: Tensor) -> NDArray[np.uint8]:
    """Images (n, C, S, S) as (n, S, S)."""
    return pixels.float().mean(dim=1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
