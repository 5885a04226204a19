"""How a pre-training is set up: a typed, checked configuration of each method, with presets whose every value can be
overridden. Imports neither torch nor NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.checks import check, check_known
from lim_gpu.pretrain.presets import METHODS, SECTIONS, VALUES, presets_of
from lim_gpu.pretrain.settings import build, coerce, flatten
from lim_gpu.pretrain.strength import SCALED, at_strength
from lim_gpu.reduction.views import SWAV

Range = tuple[float, float]


@dataclass(frozen=True)
class SwavConfig:
    """SwAV: multi-crop views, prototypes and the codes that Sinkhorn makes of them (Caron et al. 2020).

    The large crops are those by which `lim-gpu reduce --threshold auto` finds its threshold.
    """

    large_crops: int = 2
    large_size: int = 224  # pixels a side
    large_scale: Range = SWAV.scale  # of the area
    small_crops: int = 6
    small_size: int = 96
    small_scale: Range = (0.1, 0.33)
    flip: float = 0.5  # probabilities, here and below
    jitter: float = SWAV.jitter
    brightness: float = SWAV.brightness
    contrast: float = SWAV.contrast
    blur: float = SWAV.blur
    blur_sigma: Range = SWAV.blur_sigma  # pixels of the crop
    prototypes: int = 500
    hidden: int = 2048  # width of the projection head
    output: int = 128  # what the head gives, L2-normalised
    temperature: float = 0.1
    epsilon: float = 0.05  # of Sinkhorn; smaller gives sharper codes
    iterations: int = 3  # of Sinkhorn
    queue: int = 0  # embeddings a large crop that Sinkhorn sees beside the batch; 0: none
    queue_share: float = 1.0  # the queue is cut to this share of the data set, one epoch; 0: never
    queue_from_epoch: int = 15
    queue_from_step: int = 0  # instead of queue_from_epoch
    freeze_iterations: int = 0  # how long the prototypes stay as they began: steps, or
    freeze_epochs: int = 0  # epochs; the authors' 313 was meant as the first and used as the second


@dataclass(frozen=True)
class MocoConfig:
    """MoCo v2: a query and a key view, a momentum encoder and a queue of keys (He et al. 2020, Chen et al. 2020)."""

    size: int = 224
    scale: Range = (0.2, 1.0)
    flip: float = 0.5
    vertical_flip: float = 0.0
    rotate: float = 0.0
    rotate_degrees: float = 180.0  # uniform within +- this
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    blur: float = 0.5
    blur_sigma: Range = (0.1, 2.0)
    noise: float = 0.0
    noise_variance: Range = (1e-5, 1e-4)  # log-uniform, of pixels in 0..1
    mlp: bool = True
    output: int = 128
    temperature: float = 0.2
    key_momentum: float = 0.999
    queue: int = 65536  # keys; a multiple of the batch
    queue_share: float = 0.25  # the queue is cut to this share of the data set; 0: never
    bn_groups: int = 8  # of split-BN over all processes, differently permuted for query and key; 1: plain BN
    mask_same_slice: bool = True  # keys of the query's own slice are no negatives
    mask_same_volume: bool = False  # nor are those of its volume, neighbouring slices among them
    mask_near_mm: float = 0.0  # nor are those of its volume within so many mm; 0: only the above
    mask_hash_bits: int | None = None  # nor those of any volume whose HASH is within so many bits; None: only the above
    soft_hash_bits: float = 0.0  # d bits apart a negative counts 1 - exp(-d^2 / 2 soft_hash_bits^2); 0: all the same
    hard_beta: float = 0.0  # Robinson et al. 2021: how much more a negative counts that is alike; 0: all the same
    class_prior: float = 0.0  # the share of negatives that are taken for like the query; 0: none


@dataclass(frozen=True)
class SparkConfig:
    """SparK: masked modelling with sparse convolutions (Tian et al. 2023)."""

    size: int = 224
    scale: Range = (0.67, 1.0)
    interpolation: str = "bicubic"
    flip: float = 0.5
    mask_ratio: float = 0.6
    decoder_width: int = 768
    drop_path: float = 0.05
    variance_floor: float = 3.0  # grey levels of 255: patches flatter than this are not stretched to unit variance


@dataclass(frozen=True)
class OrientationConfig:
    """Rotation and flip: which way a square crop was turned (Gidaris et al. 2018)."""

    size: int = 224
    scale: Range = (0.67, 1.0)


@dataclass(frozen=True)
class ReconstructConfig:
    """Masked, next-slice and denoise: an autoencoder with a codebook, and its composite loss (Tariq et al.)."""

    size: int = 512  # a multiple of 4
    scale: Range = (1.0, 1.0)  # of the area, in square crops; 1: the largest central square
    shares: tuple[float, ...] = (0.2,)  # masked: of the area, one stage of the epochs each
    mask_by: str = "area"  # side: shares are of the side
    mask_margin: float = 0.0  # of the side: last rows and columns that are never masked
    noise: float = 0.5  # denoise: share of the pixels
    max_mm: float = 3.0  # next-slice: how far the next kept slice may be
    codes: int = 512
    dead_after: int = 100  # steps without use until a code begins anew as an encoder output; 0: never, as published
    mse: float = 0.2  # weights in the loss, here and below
    masked: float = 0.2
    vq: float = 0.8
    ssim: float = 0.1
    stretch_ssim: bool = False  # SSIM of each output stretched to 0..1, as the code
    sum_masked: bool = False  # masked error summed over the batch, as the code


@dataclass(frozen=True)
class PretrainConfig:
    """A whole pre-training. Made by `resolve`, which checks it; JSON by `to_dict`, back by `from_dict`.

    batch_size is what one optimizer step sees over all processes. An epoch has slices // batch_size steps.
    Exactly the part of the method (swav, moco, spark; orientation for rotation and flip; reconstruct for masked,
    next-slice and denoise) is used; the others keep their defaults.
    """

    method: str
    preset: str = "recommended"
    backbone: str = "resnet50"
    channels: int = 3  # grey replicated; 1: the first convolution summed over its inputs
    epochs: int = 800
    batch_size: int = 128
    optimizer: str = "lars"
    momentum: float = 0.9  # lars, sgd
    betas: Range = (0.9, 0.95)  # lamb, radam
    eps: float = 1e-8  # lars, radam; 1e-6 for lamb
    trust_coefficient: float = 0.001  # lars
    clip_grad_norm: float = 0.0  # global norm; 0: no clipping
    lr: float = 0.15
    start_lr: float = 0.0  # where the warm-up begins
    final_lr: float = 0.0
    warmup_epochs: float = 0.0
    warmup_steps: int = 0  # instead of warmup_epochs
    schedule: str = (
        "cosine"  # a step; cosine-epoch: constant within an epoch; oscillating: cosine of period cycle_steps
    )
    cycle_steps: int = 1580
    weight_decay: float = 1e-6
    final_weight_decay: float | None = None  # reached by a cosine; None: constant
    exclude_bias_and_norm: bool = True  # from weight decay and trust ratio
    precision: str = "auto"  # bf16-mixed on GPUs that have it, else 32
    mean: tuple[float, ...] = (0.1806,)  # of pixels in 0..1; one for all channels, or one a channel
    std: tuple[float, ...] = (0.1907,)
    seed: int = 0
    compile: bool = False
    strength: float = 1.0  # of the augmentation, of swav and moco: see `lim_gpu.pretrain.strength`
    swav: SwavConfig = field(default_factory=SwavConfig)
    moco: MocoConfig = field(default_factory=MocoConfig)
    spark: SparkConfig = field(default_factory=SparkConfig)
    orientation: OrientationConfig = field(default_factory=OrientationConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)

    def __post_init__(self) -> None:
        check(self)

    def steps_per_epoch(self, slices: int) -> int:
        """Optimizer steps of an epoch over `slices` slices; the last incomplete batch is dropped."""
        return slices // self.batch_size

    def total_steps(self, slices: int) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch(slices)

    @property
    def queued(self) -> SwavConfig | MocoConfig | None:
        """The settings of the method if it has a queue."""
        return self.swav if self.method == "swav" else self.moco if self.method == "moco" else None

    @property
    def view_size(self) -> int:
        """Pixels a side of the method's largest views."""
        return self.swav.large_size if self.method == "swav" else int(getattr(self, SECTIONS[self.method]).size)

    def queue_length(self, slices: int) -> int:
        """Places of the method's queue: as configured, but at most queue_share of the `slices`, in whole batches.

        A longer one holds what the network made of the same slices several epochs ago: to MoCo, every query's own slice
        as a negative. 0 without a queue.
        """
        queued = self.queued
        if queued is None or not queued.queue or not queued.queue_share:
            return queued.queue if queued else 0
        longest = min(queued.queue, int(queued.queue_share * slices))
        return max(1, longest // self.batch_size) * self.batch_size

    def queued_from(self, steps_per_epoch: int) -> int:
        """The step from which on SwAV's queue is filled."""
        return self.swav.queue_from_step or self.swav.queue_from_epoch * steps_per_epoch

    def frozen(self, steps_per_epoch: int) -> int:
        """Steps for which SwAV's prototypes stay as they began."""
        return self.swav.freeze_iterations or self.swav.freeze_epochs * steps_per_epoch

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the warm-up."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)

    def bn_groups_of(self, processes: int) -> int:
        """Groups of MoCo's split-BN in each process: its share, so that a group has as many slices as on one device.

        At least two where there are any: in one, a query would share its statistics with its key.
        """
        groups = self.moco.bn_groups
        return groups if min(groups, processes) == 1 else max(2, groups // processes)

    def share(self, epoch: int) -> float:
        """The share that is masked in an epoch: the shares take turns of equal length."""
        shares = self.reconstruct.shares
        return shares[min(epoch, self.epochs - 1) * len(shares) // self.epochs]

    @property
    def stages(self) -> dict[int, float]:
        """The curriculum of masked: number of epochs after which a share's stage ends, and the share. Else empty."""
        shares = self.reconstruct.shares if self.method == "masked" else ()
        return {-(-self.epochs * place // len(shares)): share for place, share in enumerate(shares, 1)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: lists for tuples, the parts of other methods left out."""
        values = asdict(self)
        for section in set(SECTIONS.values()) - {SECTIONS[self.method]}:
            del values[section]
        return dict(json.loads(json.dumps(values, allow_nan=False)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """Inverse of `to_dict`. Raises UsageError for unknown names and values of another type."""
        return build(cls, values)


def resolve(method: str, preset: str = "recommended", overrides: Mapping[str, Any] | None = None) -> PretrainConfig:
    """The configuration of a preset with `overrides`: names such as "lr" or "swav.queue", values or their texts.

    What follows from an override and is not overridden itself: in `recommended` the three learning rates go with the
    batch size (linear scaling); in every preset a warm-up in epochs is at most a tenth of the epochs, and the groups of
    MoCo's split-BN divide the batch.
    Raises UsageError, naming the option, for what is unknown, ill-typed or contradictory.
    """
    check_known("method", method, METHODS)
    check_known("preset", preset, presets_of(method))
    values: dict[str, Any] = {"method": method, "preset": preset} | VALUES[method, preset]
    flat = flatten(overrides or {})
    if fixed := {"method", "preset"} & set(flat):
        raise UsageError(f"--set {min(fixed)} is no override. Give --{min(fixed)}")
    others = set(SECTIONS.values()) - {SECTIONS[method]}
    other = [name for name in flat if name.split(".")[0] in others]
    if other:
        raise UsageError(f"--set {other[0]} belongs to another method than {method}. Leave it out")
    base = PretrainConfig.from_dict(values)
    for name, value in flat.items():
        section, _, key = name.rpartition(".")
        target = values.setdefault(section, {}) if section else values
        if section:
            values[section] = target = dict(target)
        target[key] = value
    return PretrainConfig.from_dict(_following(values, flat, base))


def _following(values: dict[str, Any], flat: Mapping[str, Any], base: PretrainConfig) -> dict[str, Any]:
    """`values` with what follows from the overrides `flat` of the preset `base`."""
    if "epochs" in flat and not {"warmup_epochs", "warmup_steps"} & set(flat):
        epochs = coerce("epochs", flat["epochs"], int)
        values["warmup_epochs"] = min(base.warmup_epochs, float(max(epochs, 0) // 10))
    if "warmup_steps" in flat and "warmup_epochs" not in flat:
        values["warmup_epochs"] = 0.0
    if base.method == "swav" and "swav.queue_from_step" in flat and "swav.queue_from_epoch" not in flat:
        values["swav"] = values["swav"] | {"queue_from_epoch": 0}
    if base.preset == "recommended" and "batch_size" in flat and "lr" not in flat:
        scale = coerce("batch_size", flat["batch_size"], int) / base.batch_size
        for name in {"lr", "start_lr", "final_lr"} - set(flat):
            values[name] = max(getattr(base, name) * scale, 0.0)
    elif "lr" in flat:  # the ends keep their ratio to the peak
        scale = coerce("lr", flat["lr"], float) / base.lr
        for name in {"start_lr", "final_lr"} - set(flat):
            values[name] = max(getattr(base, name) * scale, 0.0)
    if base.method == "moco" and "batch_size" in flat and "moco.bn_groups" not in flat:
        batch = coerce("batch_size", flat["batch_size"], int)
        groups = [g for g in range(1, base.moco.bn_groups + 1) if batch % g == 0 and batch // g >= 4]
        values["moco"] = values.get("moco", {}) | {"bn_groups": max(groups, default=1)}
    if "strength" in flat and (section := SECTIONS[base.method]) in SCALED:
        strength = coerce("strength", flat["strength"], float)
        given = {name.split(".")[-1] for name in flat if name.startswith(f"{section}.")}
        scaled = at_strength(strength, asdict(getattr(base, section)), section)
        values[section] = {name: v for name, v in scaled.items() if name not in given} | values.get(section, {})
    return values
