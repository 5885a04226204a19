"""Which negatives count in MoCo's loss, and how much: hard ones more, slices near the query not at all."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lim_gpu.selection.selected import SelectedSlices


def weighed(logits: Tensor, hardness: float, prior: float, temperature: float) -> Tensor:
    """Logits (B, 2), own key and all negatives together, whose cross-entropy with 0 is Robinson et al. 2021's loss.

    logits (B, 1 + L) as of `info_nce_logits`: own key l+, negatives l_j, -inf where hidden; N are left of a query.

        R = N sum e^((1 + b) l_j) / sum e^(b l_j)               b: hardness >= 0; harder negatives weigh more
        all negatives together: max((R - N t e^(l+)) / (1 - t), N e^(-1 / temperature))
                                                                t: class prior, the share of negatives that are none

    In log space. With b = t = 0 it is InfoNCE, and the logits are returned as they are.
    """
    if not hardness and not prior:
        return logits
    own, negatives = logits[:, :1], logits[:, 1:]
    hidden = negatives.isneginf()
    count = (~hidden).sum(1, keepdim=True)
    none = count == 0
    negatives = negatives.masked_fill(hidden & none, 0.0)  # a row without any: its value is replaced below
    hidden = hidden & ~none
    heavy, weight = ((negatives * factor).masked_fill(hidden, -torch.inf) for factor in (1 + hardness, hardness))
    many = count.clamp(min=1).to(logits.dtype).log()
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
