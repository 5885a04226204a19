"""Which negatives count in MoCo's loss, and how much: hard ones more, slices near or like the query less or not."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lim_gpu.dataset import SliceDataset
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.resident import THREADS
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import SelectedSlices
from lim_gpu.similarity.hash import BITS, dhash


def weighed(logits: Tensor, hardness: float, prior: float, temperature: float, share: Tensor | None = None) -> Tensor:
    """Logits (B, 2), own key and all negatives together, whose cross-entropy with 0 is Robinson et al. 2021's loss.

    logits (B, 1 + L) as of `info_nce_logits`: own key l+, negatives l_j, -inf where hidden
    share  (B, L), the log of how much each negative counts, w_j; None: w_j = 1. Of a query N = sum w_j are left

        R = N sum w_j e^((1 + b) l_j) / sum w_j e^(b l_j)       b: hardness >= 0; harder negatives weigh more
        all negatives together: max((R - N t e^(l+)) / (1 - t), N e^(-1 / temperature))
                                                                t: class prior, the share of negatives that are none

    In log space. With b = t = 0 it is InfoNCE, R = sum w_j e^(l_j): the logits (B, 1 + L) are returned, as they are
    where each negative counts.
    """
    own, negatives = logits[:, :1], logits[:, 1:]
    if not hardness and not prior:
        return logits if share is None else torch.cat([own, negatives + share], dim=1)
    hidden = negatives.isneginf()
    share = (torch.zeros_like(negatives) if share is None else share).masked_fill(hidden, -torch.inf)
    none = share.isneginf().all(1, keepdim=True)
    share = share.masked_fill(none, 0.0)  # a row without any: its value is replaced below
    negatives = negatives.masked_fill(hidden, 0.0)  # of no share
    heavy, weight = (negatives * factor + share for factor in (1 + hardness, hardness))
    many = share.logsumexp(1, keepdim=True)
    total = heavy.logsumexp(1, keepdim=True) - weight.logsumexp(1, keepdim=True) + many
    if prior:
        total = _without_own_class(total, many + math.log(prior) + own, prior)
        total = torch.maximum(total, many - 1 / temperature)
    return torch.cat([own, total.masked_fill(none, -torch.inf)], dim=1)


def _without_own_class(total: Tensor, share: Tensor, prior: float) -> Tensor:
    """log((e^total - e^share) / (1 - prior)), -inf where nothing is left."""
    below = share - total
    left = below < 0
    difference = torch.log(-torch.expm1(torch.where(left, below, -1.0)))  # -1: no NaN in a gradient that is not taken
    return (total + difference).masked_fill(~left, -torch.inf) - math.log1p(-prior)


def positions_of(slices: SelectedSlices) -> Tensor:
    """Where each slice lies along its volume, (n,) in mm, float32. Opens every volume."""
    volumes = slices.places[:, 0]
    z = np.empty(len(slices), np.float32)
    for number in np.unique(volumes):
        with slices.store[int(number)] as volume:
            own = volumes == number
            z[own] = volume.z[slices.places[own, 1]]
    return torch.from_numpy(z)


def near(positions: Tensor, ids: Tensor, volumes: Tensor, others: Tensor, their_volumes: Tensor, mm: float) -> Tensor:
    """(B, L) bool: which slices `others` (L,) lie within `mm` of slices `ids` (B,), in the same volume.

    others: -1 for none, which is near nothing.
    """
    apart = (positions[ids][:, None] - positions[others.clamp(min=0)]).abs()
    return (volumes[:, None] == their_volumes) & (others >= 0) & (apart <= mm)


def hashes_of(slices: SelectedSlices, intensity: Intensity, reporter: Reporter) -> Tensor:
    """HASH of each slice as the training sees it, (n,), its 64 bits as int64. Reads every slice, by several threads."""
    images = SliceDataset(slices, intensity=intensity)
    hashes = np.empty(len(images), np.uint64)

    def hash_one(number: int) -> None:
        hashes[number] = dhash(images[number].numpy(), threads=1)[0]

    with reporter.track("hash", len(images), "slices") as advance, ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(hash_one, range(len(images))):
            advance(1)
    return torch.from_numpy(hashes.view(np.int64))


def bits_apart(hashes: Tensor, others: Tensor) -> Tensor:
    """Differing bits (B, L) of hashes (B,) and (L,), int64: a product of their signs, exact on any device."""
    place = torch.arange(BITS, device=hashes.device)
    signs, theirs = (1 - 2 * (values[:, None] >> place & 1).float() for values in (hashes, others))
    return (BITS - signs @ theirs.T) / 2


def share_of(apart: Tensor, bits: float) -> Tensor:
    """log(1 - exp(-d^2 / 2 bits^2)) of distances d, the log of how much a negative counts: 0.39 at d = `bits`.

    Dufumier et al. 2021 (y-aware InfoNCE) say by this Gaussian kernel how far two images are the same; a negative
    counts as far as it is another one. Where all within some bits are hidden instead, they are the false negatives
    that Huynh et al. 2022 eliminate, found by HASH and not by the network that learns.
    """
    return torch.log(-torch.expm1(-0.5 * (apart / bits).square()))
