"""MoCo v2 (He et al. 2020, Chen et al. 2020): a slice's query finds its own key among those of a queue."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.errors import UsageError
from lim_gpu.pretrain.collectives import gather, world
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import ASPECT, COMPILING, SPREAD, Meter, Pretraining, spread
from lim_gpu.pretrain.negatives import bits_apart, hashes_of, near, positions_of, share_of, weighed
from lim_gpu.weights.backbone import features

if TYPE_CHECKING:
    from lim_gpu.intensity import Intensity
    from lim_gpu.pretrain.resident import SliceBatch
    from lim_gpu.progress import Reporter
    from lim_gpu.selection.selected import SelectedSlices


class MoCo(Pretraining):
    """Query and key encoders, each a backbone with a head; the key's are running means of the query's.

    Batch normalisation lets a network tell which images share a batch, and so find a key without looking at it. Both
    encoders therefore normalise over sub-batches (split-BN), and the key's batch is shuffled, so that a query and its
    key stand among different images. Every process does so within its own batch, in its share of the groups: nothing is
    shuffled across processes, which only share their keys.
    """

    meters: ClassVar[Mapping[str, Meter]] = {
        "loss": Meter("nat", "cross-entropy of the own key among those of the queue; ln(1 + negatives) is chance"),
        "pretext_top1": Meter("share", "of the queries: nearest to their own key; near 1 early, batch statistics leak"),
        "own_negatives": Meter("keys", "of its own slice that a query meets in the queue, hidden or not"),
        "negatives": Meter("keys", "that a query is told apart from: those not hidden, each as far as it counts"),
        "queue_filled": Meter("share", "of the queue's places that hold a key"),
    } | SPREAD

    positions: Tensor
    hashes: Tensor

    def __init__(self, config: PretrainConfig, slices: int) -> None:
        super().__init__(config, slices)
        moco = self.moco = config.moco
        width = features(config.backbone)
        last = nn.Linear(width, moco.output)
        self.head: nn.Module = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last) if moco.mlp else last
        self.groups = config.bn_groups_of(world()[1])
        split_batch_norm(self.encoder, self.groups)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        if config.compile:
            self.key_encoder.compile(**COMPILING)
        self.queue = Queue(config.queue_length(slices), moco.output)
        self.register_buffer("positions", torch.zeros(0), persistent=False)  # (slices,) mm, where neighbours are hidden
        self.register_buffer("hashes", torch.zeros(0), persistent=False)  # (slices,) int64, where HASH says what counts

    @property
    def compares(self) -> bool:
        """Whether HASH says which negatives count."""
        return self.moco.mask_hash_bits is not None or self.moco.soft_hash_bits > 0

    def prepare(self, slices: SelectedSlices, intensity: Intensity, reporter: Reporter) -> None:
        """Look up where the slices lie and what they look like, where that says which keys count.

        Every process does it for all slices, so that a key of another one is known here by its id.
        """
        if self.moco.mask_near_mm:
            self.positions = positions_of(slices)
        if self.compares:
            self.hashes = hashes_of(slices, intensity, reporter)

    def views(self, batch: SliceBatch, generator: torch.Generator) -> list[Tensor]:
        """[query, key], each (B, C, S, S), and the order (B,) in which the key's encoder sees the batch."""
        moco = self.moco
        pixels = [
            augment.rotate(
                batch.pixels, batch.sizes, (-moco.rotate_degrees, moco.rotate_degrees), moco.rotate, generator
            )
            if moco.rotate
            else batch.pixels
            for _ in range(2)
        ]
        images = torch.cat(
            [augment.random_resized_crop(p, batch.sizes, moco.size, moco.scale, ASPECT, generator) for p in pixels]
        )
        images = augment.color_jitter(images, moco.brightness, moco.contrast, moco.jitter, generator)
        images = augment.gaussian_blur(images, moco.blur, moco.blur_sigma, generator)
        images = augment.flip(images, moco.flip, generator)
        images = augment.vertical_flip(images, moco.vertical_flip, generator)
        if moco.noise:
            images = augment.gaussian_noise(images, moco.noise, moco.noise_variance, generator)
        order = torch.randperm(len(batch.pixels), generator=generator)
        return [*self.normalized(images).chunk(2), order.to(images.device, non_blocking=True)]

    def begin_from(self, state: Mapping[str, Any]) -> None:
        """Take the tensors of a trained encoder, for queries and keys."""
        super().begin_from(state)
        self.key_encoder.load_state_dict(state)

    def loss(self, views: list[Tensor], batch: SliceBatch) -> dict[str, Tensor]:
        """InfoNCE: cross-entropy of the own key among the queue's; then this batch's keys enter the queue."""
        query, key, order = views
        if len(query) % self.groups or len(query) == self.groups > 1:
            here = f", {self.groups} in each of {world()[1]} processes," if world()[1] > 1 else ""
            raise UsageError(
                f"moco.bn_groups {self.moco.bn_groups}{here} does not split the {len(query)} slices of a step into "
                "equal groups of 2 or more. Give --set moco.bn_groups=1, or a divisor"
            )
        with torch.no_grad():
            self.update_keys()
            k = self.key_head(self.key_encoder(key[order]))[order.argsort()]
        q = self.head(self.encoder(query))
        with torch.autocast(q.device.type, enabled=False):
            q, k = functional.normalize(q.float(), dim=1), functional.normalize(k.float(), dim=1)
            hidden, share = self._counted(batch)
            others = self.queue.keys.clone()  # the backward pass needs them after the push below
            logits = info_nce_logits(q, k, others, hidden, self.moco.temperature)
            scored = weighed(logits, self.moco.hard_beta, self.moco.class_prior, self.moco.temperature, share)
            own = self.queue.ids == batch.ids[:, None]  # (B, queue)
            left = (~hidden).float() if share is None else share.exp().masked_fill(hidden, 0)
            loss = functional.cross_entropy(scored, torch.zeros_like(batch.ids))
            self.queue.push(k, batch.ids, batch.volumes)
            meters = {
                "pretext_top1": (logits.detach().argmax(1) == 0).float().mean(),
                "own_negatives": own.sum(1).float().mean(),
                "negatives": left.sum(-1).mean(),
                "queue_filled": (self.queue.ids >= 0).float().mean(),
            }
            return {"loss": loss} | meters | spread(q.detach())

    def _counted(self, batch: SliceBatch) -> tuple[Tensor, Tensor | None]:
        """Which keys are no negatives, (queue,) or (B, queue) bool; log of how much others count, None: all as one."""
        moco, ids, volumes = self.moco, self.queue.ids, self.queue.volumes
        hidden = ids < 0
        if moco.mask_same_slice:
            hidden = hidden | (ids == batch.ids[:, None])
        if moco.mask_same_volume:
            hidden = hidden | (volumes == batch.volumes[:, None])
        if moco.mask_near_mm:
            hidden = hidden | near(self.positions, batch.ids, batch.volumes, ids, volumes, moco.mask_near_mm)
        if not self.compares:
            return hidden, None
        apart = bits_apart(self.hashes[batch.ids], self.hashes[ids.clamp(min=0)])
        if moco.mask_hash_bits is not None:
            hidden = hidden | (apart <= moco.mask_hash_bits)
        return hidden, share_of(apart, moco.soft_hash_bits) if moco.soft_hash_bits else None

    @torch.no_grad()
    def update_keys(self) -> None:
        """Move the key parameters a step towards the query's. Raises UsageError in half precision, where they stop."""
        keys: list[Tensor] = [*self.key_encoder.parameters(), *self.key_head.parameters()]
        queries = [p.detach() for p in (*self.encoder.parameters(), *self.head.parameters())]
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in keys):
            raise UsageError("momentum encoder in half precision: its steps round to nothing. Give bf16-mixed or 32")
        torch._foreach_lerp_(keys, queries, 1 - self.moco.key_momentum)


class Queue(nn.Module):
    """The last keys with what they are of, newest first; the same in every process and saved with the model.

    keys (length, dimension); ids and volumes (length,) of slices, -1 where nothing has come yet
    """

    keys: Tensor
    ids: Tensor
    volumes: Tensor

    def __init__(self, length: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, dimension))
        self.register_buffer("ids", torch.full((length,), -1))
        self.register_buffer("volumes", torch.full((length,), -1))

    def push(self, keys: Tensor, ids: Tensor, volumes: Tensor) -> None:
        """Put the keys of every process in front; the oldest fall out."""
        for kept, new in ((self.keys, keys), (self.ids, ids), (self.volumes, volumes)):
            kept.copy_(torch.cat([gather(new), kept])[: len(kept)])


def info_nce_logits(q: Tensor, k: Tensor, queue: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """Logits (B, 1 + L) of queries q and their keys k (B, d) and a queue (L, d); the own key is column 0.

    hidden  (L,) or (B, L) bool: no negatives
    """
    positive = (q * k).sum(1, keepdim=True)
    negative = (q @ queue.T).masked_fill(hidden, -torch.inf)
    return torch.cat([positive, negative], dim=1) / temperature


class SplitBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that in training normalises each of `groups` sub-batches alone: every groups-th image is in one.

    The groups stand beside each other as channels of a smaller batch, so that one call does all. The running
    statistics take the mean of theirs.
    """

    groups: int
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W), B a multiple of the groups."""
        if not self.training or self.groups == 1:
            return super().forward(input)
        mean, variance = (self.running_mean.new_zeros(self.groups, self.num_features) for _ in range(2))
        weight, bias = self.weight.repeat(self.groups), self.bias.repeat(self.groups)
        out = functional.batch_norm(  # with momentum 1 the running statistics become those of the groups
            _beside(input, self.groups), mean.view(-1), variance.view(-1), weight, bias, True, 1.0, self.eps
        )
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.mean(0), self.momentum)
        self.running_var.lerp_(variance.mean(0), self.momentum)
        return self.after(_below(out, self.groups))

    def after(self, x: Tensor) -> Tensor:
        """What the layer does beside normalising: timm's BatchNormAct2d has a dropout and an activation."""
        beside: list[nn.Module] = [getattr(self, name) for name in ("drop", "act") if hasattr(self, name)]
        return nn.Sequential(*beside)(x)


def _beside(x: Tensor, groups: int) -> Tensor:
    """(B, C, H, W) as (B / groups, groups x C, H, W) in its memory format: a view, of channels_last a copy."""
    if x.is_contiguous():
        return x.unflatten(0, (-1, groups)).flatten(1, 2)
    last = x.permute(0, 2, 3, 1).unflatten(0, (-1, groups))  # B / groups, groups, H, W, C
    return last.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def _below(x: Tensor, groups: int) -> Tensor:
    """The inverse of `_beside`."""
    if x.is_contiguous():
        return x.unflatten(1, (groups, -1)).flatten(0, 1)
    last = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))  # B / groups, H, W, groups, C
    return last.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def split_batch_norm(module: nn.Module, groups: int) -> None:
    """Turn every BatchNorm2d within `module` into a SplitBatchNorm2d of its kind; parameters and names stay."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    kinds = {kind: _split(kind) for kind in {type(norm) for norm in norms}}
    for norm in norms:
        norm.__class__ = kinds[type(norm)]
        cast(SplitBatchNorm2d, norm).groups = groups


def _split(kind: type[nn.BatchNorm2d]) -> type[SplitBatchNorm2d]:
    """SplitBatchNorm2d over a kind of BatchNorm2d, which computes where nothing is split."""
    return SplitBatchNorm2d if kind is nn.BatchNorm2d else type(f"Split{kind.__name__}", (SplitBatchNorm2d, kind), {})
