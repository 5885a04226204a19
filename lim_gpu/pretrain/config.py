"""How a pre-training is set up: a typed, checked configuration of each method, with presets whose every value can be
overridden.

Sources of the presets: Wolf et al. 2024 (tables A.8 and B.9), the code that its authors published, and the papers of
SwAV, MoCo v2 and SparK. Imports neither torch nor NumPy.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from lim_gpu.errors import UsageError

METHODS = ("swav", "moco", "spark")
PRESETS = ("recommended", "wolf2024-paper", "wolf2024-code")
OPTIMIZERS = ("lars", "lamb", "sgd")
SCHEDULES = ("cosine", "cosine-epoch", "oscillating")
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")
INTERPOLATIONS = ("bilinear", "bicubic")

Range = tuple[float, float]


@dataclass(frozen=True)
class SwavConfig:
    """SwAV: multi-crop views, prototypes and the codes that Sinkhorn makes of them (Caron et al. 2020)."""

    large_crops: int = 2
    large_size: int = 224  # pixels a side
    large_scale: Range = (0.9, 1.0)  # of the area
    small_crops: int = 6
    small_size: int = 96
    small_scale: Range = (0.1, 0.33)
    flip: float = 0.5  # probabilities, here and below
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    blur: float = 0.5
    blur_sigma: Range = (0.1, 2.0)  # pixels of the crop
    prototypes: int = 500
    hidden: int = 2048  # width of the projection head
    output: int = 128  # what the head gives, L2-normalised
    temperature: float = 0.1
    epsilon: float = 0.05  # of Sinkhorn; smaller gives sharper codes
    iterations: int = 3  # of Sinkhorn
    queue: int = 0  # embeddings a large crop that Sinkhorn sees beside the batch; 0: none
    queue_share: float = 1.0  # the queue is cut to this share of the data set, one epoch; 0: never
    queue_from_epoch: int = 15
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
    bn_groups: int = 8  # split-BN on one device, differently permuted for query and key; 1: plain BN
    mask_same_slice: bool = True  # keys of the query's own slice are no negatives
    mask_same_volume: bool = False  # nor are those of its volume, neighbouring slices among them


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
class PretrainConfig:
    """A whole pre-training. Made by `resolve`, which checks it; JSON by `to_dict`, back by `from_dict`.

    batch_size is what one optimizer step sees over all processes. An epoch has slices // batch_size steps.
    Exactly the part of the method (swav, moco, spark) is used; the others keep their defaults.
    """

    method: str
    preset: str = "recommended"
    backbone: str = "resnet50"
    channels: int = 3  # grey replicated; 1: the first convolution summed over its inputs
    epochs: int = 800
    batch_size: int = 128
    optimizer: str = "lars"
    momentum: float = 0.9  # lars, sgd
    betas: Range = (0.9, 0.95)  # lamb
    eps: float = 1e-8  # lars; 1e-6 for lamb
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
    swav: SwavConfig = field(default_factory=SwavConfig)
    moco: MocoConfig = field(default_factory=MocoConfig)
    spark: SparkConfig = field(default_factory=SparkConfig)

    def __post_init__(self) -> None:
        _check(self)

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

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the warm-up."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: lists for tuples, the parts of other methods left out."""
        values = asdict(self)
        for method in METHODS:
            if method != self.method:
                del values[method]
        return dict(json.loads(json.dumps(values, allow_nan=False)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """Inverse of `to_dict`. Raises UsageError for unknown names and values of another type."""
        return _build(cls, values, "")


# Presets: what differs from the defaults above. Both wolf2024 presets have no flip in SwAV and scale no learning rate.
_WOLF_SWAV: dict[str, Any] = {
    "epochs": 800,
    "batch_size": 128,
    "optimizer": "lars",
    "lr": 0.15,
    "weight_decay": 1e-6,
    "exclude_bias_and_norm": False,
    "swav": {"flip": 0.0},
}
_WOLF_MOCO: dict[str, Any] = {
    "epochs": 800,
    "optimizer": "sgd",
    "schedule": "cosine-epoch",
    "weight_decay": 1e-4,
    "exclude_bias_and_norm": False,
    "precision": "32",
    "moco": {"temperature": 0.07, "queue_share": 0.0, "bn_groups": 1, "mask_same_slice": False},
}
_WOLF_SPARK: dict[str, Any] = {
    "epochs": 1600,
    "batch_size": 32,
    "optimizer": "lamb",
    "eps": 1e-6,
    "clip_grad_norm": 5.0,
    "lr": 2.5e-5,
    "start_lr": 1.25e-7,
    "final_lr": 2.5e-8,
    "warmup_epochs": 40.0,
    "weight_decay": 0.04,
    "final_weight_decay": 0.2,
    "precision": "32",
    "mean": (0.485, 0.456, 0.406),  # ImageNet's, as the code; the paper's table C.10 is empty
    "std": (0.229, 0.224, 0.225),
    "spark": {"variance_floor": 0.0},
}
_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("swav", "wolf2024-paper"): _WOLF_SWAV
    | {"warmup_epochs": 10.0, "final_lr": 1.5e-4, "swav": {"flip": 0.0, "freeze_iterations": 313}},
    # As it ran: the schedule was built with one step an epoch, so it warms up in 10 steps and then swings between the
    # peak and 0 with a period of 1,580 steps to the end; the prototypes stay frozen for 313 epochs.
    ("swav", "wolf2024-code"): _WOLF_SWAV
    | {"schedule": "oscillating", "warmup_steps": 10, "precision": "16-mixed"}
    | {"swav": {"flip": 0.0, "freeze_epochs": 313}},
    ("swav", "recommended"): {
        "batch_size": 128,
        "lr": 0.15,
        "final_lr": 1.5e-4,
        "warmup_epochs": 10.0,
        "swav": {"queue": 3840, "freeze_epochs": 1},
    },
    ("moco", "wolf2024-paper"): _WOLF_MOCO | {"batch_size": 64, "lr": 1e-4},
    ("moco", "wolf2024-code"): _WOLF_MOCO
    | {"batch_size": 128, "lr": 0.015}
    | {"moco": _WOLF_MOCO["moco"] | {"jitter": 1.0, "vertical_flip": 0.5, "rotate": 0.5, "noise": 0.5}},
    ("moco", "recommended"): {
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.015,
        "weight_decay": 1e-4,
    },
    ("spark", "wolf2024-paper"): _WOLF_SPARK,
    ("spark", "wolf2024-code"): _WOLF_SPARK,
    # The published base rate 2e-4 a 256 slices, at a batch that one GPU holds.
    ("spark", "recommended"): {
        "batch_size": 256,
        "optimizer": "lamb",
        "eps": 1e-6,
        "clip_grad_norm": 5.0,
        "lr": 2e-4,
        "start_lr": 1e-6,
        "final_lr": 2e-7,
        "warmup_epochs": 40.0,
        "weight_decay": 0.04,
        "final_weight_decay": 0.2,
    },
}


def resolve(method: str, preset: str = "recommended", overrides: Mapping[str, Any] | None = None) -> PretrainConfig:
    """The configuration of a preset with `overrides`: names such as "lr" or "swav.queue", values or their texts.

    What follows from an override and is not overridden itself: in `recommended` the three learning rates go with the
    batch size (linear scaling); in every preset a warm-up in epochs is at most a tenth of the epochs, and the groups of
    MoCo's split-BN divide the batch.
    Raises UsageError, naming the option, for what is unknown, ill-typed or contradictory.
    """
    for name, value, known in (("method", method, METHODS), ("preset", preset, PRESETS)):
        if value not in known:
            raise UsageError(f"{name} {value!r} is unknown. Give one of {', '.join(known)}")
    values: dict[str, Any] = {"method": method, "preset": preset} | _PRESETS[method, preset]
    flat = _flatten(overrides or {})
    if fixed := {"method", "preset"} & set(flat):
        raise UsageError(f"--set {min(fixed)} is no override. Give --{min(fixed)}")
    other = [name for name in flat if name.split(".")[0] in METHODS and name.split(".")[0] != method]
    if other:
        raise UsageError(f"--set {other[0]} belongs to another method than {method}")
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
        epochs = _coerce("epochs", flat["epochs"], int)
        values["warmup_epochs"] = min(base.warmup_epochs, float(max(epochs, 0) // 10))
    if "warmup_steps" in flat and "warmup_epochs" not in flat:
        values["warmup_epochs"] = 0.0
    if base.preset == "recommended" and "batch_size" in flat and "lr" not in flat:
        scale = _coerce("batch_size", flat["batch_size"], int) / base.batch_size
        for name in {"lr", "start_lr", "final_lr"} - set(flat):
            values[name] = max(getattr(base, name) * scale, 0.0)
    elif "lr" in flat:  # the ends keep their ratio to the peak
        scale = _coerce("lr", flat["lr"], float) / base.lr
        for name in {"start_lr", "final_lr"} - set(flat):
            values[name] = max(getattr(base, name) * scale, 0.0)
    if base.method == "moco" and "batch_size" in flat and "moco.bn_groups" not in flat:
        batch = _coerce("batch_size", flat["batch_size"], int)
        groups = [g for g in range(1, base.moco.bn_groups + 1) if batch % g == 0 and batch // g >= 4]
        values["moco"] = values.get("moco", {}) | {"bn_groups": max(groups, default=1)}
    return values


def parse_overrides(texts: tuple[str, ...] | list[str]) -> dict[str, str]:
    """The --set options NAME=VALUE as a mapping. Raises UsageError for another form, and for a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r} is not NAME=VALUE, such as --set swav.queue=3840")
        if name.strip() in found:
            raise UsageError(f"--set {name.strip()} is given twice")
        found[name.strip()] = value.strip()
    return found


def _flatten(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in overrides.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _build(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass of `values`, every one brought to the type of its field."""
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        near = ", ".join(prefix + name for name in known)
        raise UsageError(f"setting {prefix}{unknown[0]} is unknown. Known: {near}")
    missing = [n for n, f in known.items() if n not in values and f.default is f.default_factory is MISSING]
    if missing:
        raise UsageError(f"setting {prefix}{missing[0]} is missing")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UsageError(f"setting {prefix}{name} is a group. Set {prefix}{name}.NAME=VALUE")
            built[name] = _build(hint, value, f"{prefix}{name}.")
        else:
            built[name] = _coerce(prefix + name, value, hint)
    return cls(**built)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """`value`, or its text, as the type `hint`. Raises UsageError naming the setting."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _coerce(name, value, next(kind for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        parts = value.strip("()[]").split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            parts = [parts]
        if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
            raise UsageError(f"setting {name}={value!r} is not {len(kinds)} numbers, such as {name}=0.1,0.33")
        return tuple(_coerce(name, part, kinds[0]) for part in parts)
    try:
        if hint is bool:
            return _truth(value)
        if hint is int:
            number = int(value)
            if isinstance(value, bool) or (isinstance(value, float) and number != value):
                raise ValueError
            return number
        if hint is float:
            if isinstance(value, bool) or not math.isfinite(float(value)):
                raise ValueError
            return float(value)
        if not isinstance(value, str):
            raise ValueError
        return value
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a finite number"}.get(hint, "a text")
        raise UsageError(f"setting {name}={value!r} is not {kind}") from None


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    return words[value.lower()] if isinstance(value, str) and value.lower() in words else _refuse()


def _refuse() -> bool:
    raise ValueError


def _check(config: PretrainConfig) -> None:
    """Raise UsageError for the first setting that makes no sense."""
    for name, known in (
        ("method", METHODS),
        ("preset", PRESETS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
    ):
        if getattr(config, name) not in known:
            raise UsageError(f"{name} {getattr(config, name)!r} is unknown. Give one of {', '.join(known)}")
    _check_precision(config.precision)
    for name in ("epochs", "batch_size", "cycle_steps"):
        _at_least(name, getattr(config, name), 1)
    if config.batch_size < 2:
        raise UsageError("batch_size 1 leaves batch normalisation nothing to average. Give 2 or more")
    if config.channels not in (1, 3):
        raise UsageError(f"channels {config.channels} is unknown. Give 3 (grey replicated) or 1")
    for name in ("weight_decay", "clip_grad_norm", "warmup_epochs", "warmup_steps", "seed", "start_lr", "final_lr"):
        _at_least(name, getattr(config, name), 0)
    if config.lr <= 0:
        raise UsageError(f"lr {config.lr:g} trains nothing. Give a positive one")
    for name in ("start_lr", "final_lr"):
        if getattr(config, name) > config.lr:
            raise UsageError(f"{name} {getattr(config, name):g} is above lr {config.lr:g}, the peak. Give at most lr")
    if config.warmup_epochs and config.warmup_steps:
        raise UsageError("warmup_epochs and warmup_steps exclude each other. Give one of them")
    if config.warmup_epochs > config.epochs:
        raise UsageError(f"warmup_epochs {config.warmup_epochs:g} is longer than the {config.epochs} epochs")
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) not in (1, config.channels):
            one = f"Give one of mean and one of std, such as --set {name}={sum(values) / len(values):.4g}"
            raise UsageError(f"{name} has {len(values)} values for {config.channels} channels. {one}")
    if min(config.std) <= 0:
        raise UsageError(f"std {min(config.std):g} cannot divide. Give positive ones")
    for name in ("momentum", "trust_coefficient"):
        _within(name, getattr(config, name), 0, 1)
    {"swav": _check_swav, "moco": _check_moco, "spark": _check_spark}[config.method](config)


def _check_precision(precision: str) -> None:
    if precision in ("16-true", "bf16-true", "16", "bf16", "half"):
        raise UsageError(
            f"precision {precision} keeps weights in half: Sinkhorn overflows and momentum encoders stop. "
            "Give bf16-mixed, 16-mixed or 32"
        )
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown. Give one of {', '.join(PRECISIONS)}")


def _check_swav(config: PretrainConfig) -> None:
    c = config.swav
    if c.large_crops < 2:
        raise UsageError(f"swav.large_crops {c.large_crops}: the codes are swapped between at least 2")
    _at_least("swav.small_crops", c.small_crops, 0)
    _probabilities("swav", c, ("flip", "jitter", "blur"))
    _at_least("swav.queue_share", c.queue_share, 0)
    _ranges("swav", c, ("large_scale", "small_scale", "blur_sigma"))
    for name in ("large_size", "small_size"):
        _at_least(f"swav.{name}", getattr(c, name), 32)
    for name in ("hidden", "output", "iterations"):
        _at_least(f"swav.{name}", getattr(c, name), 1)
    _at_least("swav.prototypes", c.prototypes, 2)
    for name in ("brightness", "contrast", "queue", "queue_from_epoch", "freeze_iterations", "freeze_epochs"):
        _at_least(f"swav.{name}", getattr(c, name), 0)
    _positive("swav", c, ("temperature", "epsilon"))
    if c.freeze_iterations and c.freeze_epochs:
        raise UsageError("swav.freeze_iterations and swav.freeze_epochs exclude each other. Give one of them")


def _check_moco(config: PretrainConfig) -> None:
    c = config.moco
    _probabilities(
        "moco", c, ("flip", "vertical_flip", "rotate", "jitter", "blur", "noise", "key_momentum", "queue_share")
    )
    _ranges("moco", c, ("scale", "blur_sigma", "noise_variance"))
    _at_least("moco.size", c.size, 32)
    for name in ("output", "queue", "bn_groups"):
        _at_least(f"moco.{name}", getattr(c, name), 1)
    for name in ("brightness", "contrast", "rotate_degrees"):
        _at_least(f"moco.{name}", getattr(c, name), 0)
    _positive("moco", c, ("temperature",))


def _check_spark(config: PretrainConfig) -> None:
    c = config.spark
    _probabilities("spark", c, ("flip", "drop_path"))
    _ranges("spark", c, ("scale",))
    if c.size < 32 or c.size % 32:
        raise UsageError(f"spark.size {c.size} is no multiple of 32, the side of a masked cell")
    if c.interpolation not in INTERPOLATIONS:
        raise UsageError(f"spark.interpolation {c.interpolation!r} is unknown. Give {' or '.join(INTERPOLATIONS)}")
    cells = (c.size // 32) ** 2
    if not 1 <= round(cells * (1 - c.mask_ratio)) < cells:
        raise UsageError(f"spark.mask_ratio {c.mask_ratio:g} masks all or none of {cells} cells")
    if c.decoder_width < 32 or c.decoder_width % 32:
        raise UsageError(f"spark.decoder_width {c.decoder_width} is no multiple of 32: it is halved five times")
    _at_least("spark.variance_floor", c.variance_floor, 0)


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise UsageError(f"{name} {value:g} is too small. Give {least:g} or more")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {value:g} is outside {low:g}..{high:g}")


def _probabilities(section: str, part: Any, names: tuple[str, ...]) -> None:
    for name in names:
        _within(f"{section}.{name}", getattr(part, name), 0, 1)


def _ranges(section: str, part: Any, names: tuple[str, ...]) -> None:
    for name in names:
        low, high = getattr(part, name)
        if not 0 < low <= high:
            raise UsageError(f"{section}.{name} {low:g},{high:g} is no range. Give 0 < LOW <= HIGH")
        if name.endswith("scale") and high > 1:
            raise UsageError(f"{section}.{name} {low:g},{high:g} is more than the image. Give at most 1")


def _positive(section: str, part: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(part, name) <= 0:
            raise UsageError(f"{section}.{name} {getattr(part, name):g} is not positive")
