"""Vector quantisation (van den Oord et al. 2017): the nearest of a few codes in place of each position of a map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lim_gpu.pretrain.collectives import gather, total

COMMITMENT = 0.25  # weight of the term that draws the encoder to its codes


class Quantised(NamedTuple):
    """codes (B, d, h, w), through which gradients pass as if they were the map; the loss; counts (K,) of every code."""

    codes: Tensor
    loss: Tensor
    counts: Tensor


class Codebook(nn.Module):
    """`count` codes of `length` numbers, learnt by gradient; the same in every process.

    dead_after  steps without use after which a code becomes an output of the encoder, as every code does at the first
                step; 0: never, and the codes begin uniform in +-1 / count, as published: of those few are ever used
    """

    idle: Tensor  # (K,) steps since each code was used

    def __init__(self, count: int, length: int, dead_after: int) -> None:
        super().__init__()
        self.dead_after = dead_after
        self.codes = nn.Parameter(torch.empty(count, length).uniform_(-1 / count, 1 / count))
        self.register_buffer("idle", torch.full((count,), dead_after))

    def forward(self, z: Tensor, picks: Tensor) -> Quantised:
        """Quantise a map z (B, d, h, w) in float32 or wider; picks (K,) in 0..1 choose what dead codes become."""
        rows = z.movedim(1, -1).flatten(0, 2)
        if self.training and self.dead_after:
            self._revive(rows.detach(), picks)
        nearest = torch.cdist(rows.detach(), self.codes.detach()).argmin(1)
        chosen = self.codes[nearest]
        loss = functional.mse_loss(chosen, rows.detach()) + COMMITMENT * functional.mse_loss(rows, chosen.detach())
        counts = total(torch.zeros_like(self.idle).scatter_add_(0, nearest, torch.ones_like(nearest)))
        if self.training:
            self.idle.add_(1).masked_fill_(counts > 0, 0)
        through = (rows + (chosen - rows).detach()).unflatten(0, (len(z), *z.shape[2:]))
        return Quantised(through.movedim(-1, 1), loss, counts)

    @torch.no_grad()
    def _revive(self, rows: Tensor, picks: Tensor) -> None:
        """Put outputs of the encoder, of all processes, in the place of dead codes; nothing waits for the device."""
        offered = gather(rows[(picks * len(rows)).long()])
        offered = offered[:: len(offered) // len(self.codes)]
        dead = self.idle >= self.dead_after
        self.codes.copy_(torch.where(dead[:, None], offered, self.codes))
        self.idle.masked_fill_(dead, 0)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the choices (K,): 1 when one code takes all, K when all are chosen alike."""
    share = counts / counts.sum()
    return (-torch.xlogy(share, share).sum()).exp()
