"""SwAV (Caron et al. 2020): crops of a slice predict each other's assignment to prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.pretrain.collectives import gather, maximum, total, world
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import ASPECT, SPREAD, Meter, Pretraining, spread
from lim_gpu.weights.backbone import features

if TYPE_CHECKING:
    from lim_gpu.pretrain.resident import SliceBatch

ASSIGNED = 2  # the large crops: they give the codes, and all crops predict them
MEMORY = 0.99  # of the usage meter: it looks back about a hundred steps
IN_USE = 0.5  # a prototype with less of that memory is dead: one crop 69 steps ago


class SwAV(Pretraining):
    """Projection head, prototypes and an optional queue over the backbone.

    Prototypes are rows of unit length without bias, renormalised before every forward. Scores, codes and loss are
    computed in float32 whatever the precision. The queue holds the embeddings of the last large crops of all
    processes, which each scores a share of, so that Sinkhorn sees enough of them; it is used once it is full.
    """

    meters: ClassVar[Mapping[str, Meter]] = {
        "loss": Meter("nat", "cross-entropy of a crop's code under what other crops predict; ln(prototypes) is chance"),
        "effective_prototypes": Meter("prototypes", "that share one code, exp of its entropy; 1 is a hard assignment"),
        "max_q": Meter("share", "of a code that its largest entry holds; 1 is a hard assignment"),
        "usage_perplexity": Meter("prototypes", "in use in about the last hundred steps; a fall to 1 is collapse"),
        "dead_share": Meter("share", "of the prototypes that nothing has chosen lately"),
        "prototype_cosine": Meter("cosine", "between two prototypes, the mean; 1 is collapse"),
    } | SPREAD
    usage: Tensor

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__(config, slices)
        swav = self.swav = config.swav
        width = features(config.backbone)
        self.head = nn.Sequential(
            nn.Linear(width, swav.hidden), nn.BatchNorm1d(swav.hidden), nn.ReLU(), nn.Linear(swav.hidden, swav.output)
        )
        self.prototypes = nn.Linear(swav.output, swav.prototypes, bias=False)
        self.queue = Queue(config.queue_length(slices), swav.output)
        self.register_buffer("usage", torch.zeros(swav.prototypes))

    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """Large crops (2 B, C, S, S) and small ones (6 B, C, s, s), crop after crop; together if of one size."""
        swav = self.swav
        groups = [(swav.large_crops, swav.large_size, swav.large_scale)]
        if swav.small_crops:
            groups.append((swav.small_crops, swav.small_size, swav.small_scale))
        views = []
        for crops, size, scale in groups:
            images = augment.random_resized_crop(batch.pixels, batch.sizes, size, scale, ASPECT, generator, crops=crops)
            images = augment.flip(images, swav.flip, generator)
            images = augment.color_jitter(images, swav.brightness, swav.contrast, swav.jitter, generator)
            views.append(self.normalized(augment.gaussian_blur(images, swav.blur, swav.blur_sigma, generator)))
        return views if swav.large_size != swav.small_size else [torch.cat(views)]

    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """Each crop predicts the codes of every other large crop of its slice; cross-entropy, averaged."""
        swav = self.swav
        self._normalise_prototypes()
        features = torch.cat([self.encoder(crops) for crops in views])
        projected = self.head(features)
        with torch.autocast(projected.device.type, enabled=False):
            z = functional.normalize(projected.float(), dim=1)
            scores = self.prototypes(z).unflatten(0, (-1, len(batch.ids)))  # (crops, B, K)
            large = z.detach().unflatten(0, (-1, len(batch.ids)))[:ASSIGNED]
            codes = self._codes(scores.detach()[:ASSIGNED], large)
            loss = swapped_prediction(scores, codes, swav.temperature)
            return {"loss": loss} | self._meters(scores.detach(), codes) | spread(z.detach())

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))

    @torch.no_grad()
    def _codes(self, scores: Tensor, large: Tensor) -> Tensor:
        """(2, B, K) codes of the large crops; with a full queue its embeddings take part in the assignment."""
        queued = self.queue.share() if self.queue.full else None
        codes = []
        for crop, own in enumerate(scores):
            seen = own if queued is None else torch.cat([own, self.prototypes(queued[crop])])
            codes.append(sinkhorn(seen, self.swav.epsilon, self.swav.iterations)[: len(own)])
        if self.global_step >= self.swav.queue_from_step and self.current_epoch >= self.swav.queue_from_epoch:
            self.queue.push(large)
        return torch.stack(codes)

    @torch.no_grad()
    def _meters(self, scores: Tensor, codes: Tensor) -> dict[str, Tensor]:
        entropy = torch.special.entr(codes).sum(-1).mean()
        chosen = scores.argmax(-1).flatten()
        self.usage.mul_(MEMORY).index_add_(0, chosen, torch.ones(len(chosen), device=chosen.device))
        share = self.usage / self.usage.sum()
        count = len(self.usage)
        summed = self.prototypes.weight.sum(0).square().sum()  # of unit vectors: all their cosines, K with themselves
        return {
            "effective_prototypes": entropy.exp(),
            "max_q": codes.amax(-1).mean(),
            "usage_perplexity": torch.special.entr(share).sum().exp(),
            "dead_share": (self.usage < IN_USE).float().mean(),
            "prototype_cosine": (summed - count) / (count * (count - 1)),
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Frozen prototypes have no gradient, so the optimizer leaves them alone, weight decay included."""
        if self.frozen:
            self.prototypes.weight.grad = None

    @property
    def frozen(self) -> bool:
        """Whether the prototypes stay as they began: for the first `freeze_iterations` or `freeze_epochs`."""
        return self.global_step < self.swav.freeze_iterations or self.current_epoch < self.swav.freeze_epochs


class Queue(nn.Module):
    """The embeddings of the last large crops, (2, length, dimension), newest first; saved with the model.

    It is the same in every process: a push gathers from all, and each scores its own `share`.
    """

    embeddings: Tensor

    def __init__(self, length: int, dimension: int) -> None:
        super().__init__()
        self.filled = 0
        self.register_buffer("embeddings", torch.zeros(ASSIGNED, length, dimension))

    @property
    def full(self) -> bool:
        """Whether every place has been filled; never of a queue without places."""
        return 0 < self.embeddings.shape[1] <= self.filled

    def push(self, embeddings: Tensor) -> None:
        """Put (2, B, dimension) of every process in front; the oldest fall out."""
        length = self.embeddings.shape[1]
        if length:
            new = gather(embeddings.transpose(0, 1)).transpose(0, 1)
            self.embeddings.copy_(torch.cat([new, self.embeddings], dim=1)[:, :length])
            self.filled = min(self.filled + new.shape[1], length)

    def share(self) -> Tensor:
        """This process's rows, (2, length / processes, dimension)."""
        rank, processes = world()
        return self.embeddings[:, rank::processes]

    def get_extra_state(self) -> Tensor:
        """The number of filled places; counted on the host, so that asking for it does not wait for the GPU."""
        return torch.tensor(self.filled)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number back."""
        self.filled = int(state)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes (B, K) of scores (B, K) float32: rows sum to 1, and prototypes share the samples of all processes evenly.

    The iterations of SwAV in logarithms: normalising is subtracting a logsumexp, which has subtracted the maximum, so
    that finite scores of any size give finite codes.
    """
    logits = scores / epsilon
    for _ in range(iterations):
        logits = logits - _logsumexp_of_samples(logits)
        logits = functional.log_softmax(logits, dim=1)
    return logits.exp()


def _logsumexp_of_samples(logits: Tensor) -> Tensor:
    """Over the rows of every process: (B, K) to (1, K)."""
    largest = maximum(logits.amax(0, keepdim=True))
    return largest + total((logits - largest).exp().sum(0, keepdim=True)).log()


def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of codes (A, B, K) of the first A crops under the scores (V, B, K) of every other crop."""
    log_p = functional.log_softmax(scores / temperature, dim=-1)
    others = log_p.sum(0) - log_p[: len(codes)]  # for each code, summed over the crops that predict it
    return -(codes * others).sum(-1).mean() / (len(scores) - 1)
