"""Linear CKA between the layers of two networks (Kornblith et al. 2019; the paper's Figures 8 and 9).

    CKA = sum HSIC(K, L) / sqrt(sum HSIC(K, K) * sum HSIC(L, L)),   K = X X', L = Y Y'

X, Y: activations of one layer for the same batch of images, flattened (B, d). The sums go over batches; HSIC is the
unbiased estimator of Song et al. 2012, so that the result does not depend on the batch size in expectation (Nguyen et
al. 2021, section 3.1):

    HSIC(K, L) = (tr(K~ L~) + 1'K~1 1'L~1 / ((B-1)(B-2)) - 2 / (B-2) 1'K~L~1) / (B (B-3)),   K~: K without its diagonal
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.errors import UsageError
from lim_gpu.weights.names import VQAES, is_timm

BLOCK = re.compile(r"(layer\d+|residual)\.\d+")
LEAST = 4  # images in a batch: the estimator divides by B - 3


def layer_names(name: str, encoder: torch.nn.Module, which: str) -> list[str]:
    """Layers of the backbone `name` in order: "blocks" (stem, residual blocks, of ResNets pooling, of vqae the last
    activation) or "convolutions" (every one of them). Raises UsageError for a network of timm, whose blocks it does
    not know.
    """
    if is_timm(name):
        what = f"CKA compares the layers of torchvision's ResNets and of vqae, not of {name}"
        raise UsageError(f"{what}. Give `analyse probe` or `analyse tsne`, which compare features")
    modules = dict(encoder.named_modules())
    if which == "convolutions":
        return [name for name, module in modules.items() if isinstance(module, torch.nn.Conv2d)]
    if which != "blocks":
        raise UsageError(f"layers {which!r} are unknown. Give blocks or convolutions")
    blocks = [name for name in modules if BLOCK.fullmatch(name)]
    return ["e1", "e2", "e3", *blocks] if name in VQAES else ["maxpool", *blocks, "avgpool"]


def grams(encoder: torch.nn.Module, images: Tensor, names: Iterable[str]) -> Tensor:
    """Gram matrices (layers, B, B), float64, diagonals 0, of the activations of the named layers for one batch."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Tensor) -> None:
            flat = output.detach().flatten(1).float()
            flat = flat - flat.mean(dim=0)  # HSIC does not see the mean; float32 would
            found[name] = (flat @ flat.T).double().fill_diagonal_(0)

        return hook

    modules = dict(encoder.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([found[name] for name in names])


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased HSIC (a, b) of Gram matrices (a, B, B) and (b, B, B) whose diagonals are 0."""
    n = first.shape[-1]
    if n < LEAST:
        raise UsageError(f"CKA needs at least {LEAST} images in a batch, not {n}. Give more --images")
    traces = torch.einsum("aij,bij->ab", first, second)
    sums = first.sum(dim=(1, 2))[:, None] * second.sum(dim=(1, 2))[None]
    crossed = first.sum(dim=1) @ second.sum(dim=1).T
    return (traces + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


class Cka:
    """Sums HSIC over batches; `value` is (layers of the first, layers of the second), about 0..1."""

    def __init__(self) -> None:
        self.batches = 0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None  # of both, of the first alone, of the second alone

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take the Gram matrices of one batch, (a, B, B) and (b, B, B)."""
        parts = (hsic(first, second), _own(first), _own(second))
        before = self._sums or tuple(torch.zeros_like(part) for part in parts)
        cross, own_first, own_second = (total + part for total, part in zip(before, parts, strict=True))
        self._sums = cross, own_first, own_second
        self.batches += 1

    def value(self) -> NDArray[np.float64]:
        """NaN for a layer whose activations do not vary. Raises UsageError before any batch."""
        if self._sums is None:
            raise UsageError(f"CKA needs a batch of at least {LEAST} images. Give more --images, or another --part")
        cross, first, second = self._sums
        scale = (first[:, None] * second[None]).clamp(min=0).sqrt()
        return (cross / scale.where(scale > 0, torch.nan)).cpu().numpy()


def _own(grams: Tensor) -> Tensor:
    return torch.stack([hsic(gram[None], gram[None])[0, 0] for gram in grams])
