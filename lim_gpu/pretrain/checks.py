"""What a configuration of pre-training may hold: the names that are known, and the ranges that make sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lim_gpu.errors import UsageError, unknown
from lim_gpu.pretrain.presets import METHODS, RECONSTRUCTIONS, SECTIONS, presets_of
from lim_gpu.pretrain.strength import SCALED
from lim_gpu.weights.names import BACKBONES, RESNETS, VQAES, is_timm

if TYPE_CHECKING:
    from lim_gpu.pretrain.config import PretrainConfig

OPTIMIZERS = ("lars", "lamb", "sgd", "radam")
SCHEDULES = ("cosine", "cosine-epoch", "oscillating")
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")
INTERPOLATIONS = ("bilinear", "bicubic")
MASKED_BY = ("area", "side")
STRIDE = 4  # of vqae
BACKBONES_OF = {"spark": RESNETS} | dict.fromkeys(RECONSTRUCTIONS, VQAES)  # the other methods take any


def check(config: PretrainConfig) -> None:
    """Raise UsageError for the first setting that makes no sense."""
    _check_names(config)
    _check_sizes(config)
    _check_rates(config)
    _check_normalisation(config)
    for name in ("momentum", "trust_coefficient"):
        _within(name, getattr(config, name), 0, 1)
    if config.strength <= 0:
        raise UsageError(f"strength {config.strength:g} is no factor. Give a positive one")
    if config.strength != 1 and SECTIONS[config.method] not in SCALED:
        raise UsageError(f"strength scales the views of {' and '.join(SCALED)}, not of {config.method}. Leave it out")
    _CHECKS[SECTIONS[config.method]](config)


def _check_names(config: PretrainConfig) -> None:
    for name, known in (("method", METHODS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        check_known(name, getattr(config, name), known)
    check_known("preset", config.preset, presets_of(config.method))
    _check_backbone(config)
    if config.precision in ("16-true", "bf16-true", "16", "bf16", "half"):
        raise UsageError(
            f"precision {config.precision} keeps weights in half: Sinkhorn overflows and momentum encoders stop. "
            "Give bf16-mixed, 16-mixed or 32"
        )
    check_known("precision", config.precision, PRECISIONS)


def _check_backbone(config: PretrainConfig) -> None:
    fitting = BACKBONES_OF.get(config.method, BACKBONES)
    if not is_timm(config.backbone):
        check_known("backbone", config.backbone, BACKBONES)
    elif fitting is BACKBONES:
        return  # whether timm has it, the run asks timm
    if config.backbone not in fitting:
        why = "masks the four maps of torchvision's ResNets" if fitting is RESNETS else "trains an autoencoder"
        raise UsageError(f"{config.method} {why}, not {config.backbone}. Give --backbone {' or '.join(fitting[:3])}")


def _check_sizes(config: PretrainConfig) -> None:
    for name in ("epochs", "batch_size", "cycle_steps"):
        _at_least(name, getattr(config, name), 1)
    if config.batch_size < 2:
        raise UsageError("batch_size 1 leaves batch normalisation nothing to average. Give 2 or more")
    if config.channels not in (1, 3):
        raise UsageError(f"channels {config.channels} is unknown. Give 3 (grey replicated) or 1")
    for name in ("weight_decay", "clip_grad_norm", "warmup_epochs", "warmup_steps", "seed", "start_lr", "final_lr"):
        _at_least(name, getattr(config, name), 0)


def _check_rates(config: PretrainConfig) -> None:
    if config.lr <= 0:
        raise UsageError(f"lr {config.lr:g} trains nothing. Give a positive one")
    for name in ("start_lr", "final_lr"):
        if getattr(config, name) > config.lr:
            raise UsageError(f"{name} {getattr(config, name):g} is above lr {config.lr:g}, the peak. Give at most lr")
    if config.warmup_epochs and config.warmup_steps:
        raise UsageError("warmup_epochs and warmup_steps exclude each other. Give one of them")
    if config.warmup_epochs > config.epochs:
        raise UsageError(f"warmup_epochs {config.warmup_epochs:g} is longer than {config.epochs} epochs. Give fewer")


def _check_normalisation(config: PretrainConfig) -> None:
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) not in (1, config.channels):
            one = f"Give one of mean and one of std, such as --set {name}={sum(values) / len(values):.4g}"
            raise UsageError(f"{name} has {len(values)} values for {config.channels} channels. {one}")
    if min(config.std) <= 0:
        raise UsageError(f"std {min(config.std):g} cannot divide. Give positive ones")


def _check_swav(config: PretrainConfig) -> None:
    c = config.swav
    if c.large_crops < 2:
        raise UsageError(f"swav.large_crops {c.large_crops}: the codes are swapped between at least 2. Give 2 or more")
    _at_least("swav.small_crops", c.small_crops, 0)
    _probabilities("swav", c, ("flip", "jitter", "blur"))
    _at_least("swav.queue_share", c.queue_share, 0)
    _ranges("swav", c, ("large_scale", "small_scale", "blur_sigma"))
    for name in ("large_size", "small_size"):
        _at_least(f"swav.{name}", getattr(c, name), 32)
    for name in ("hidden", "output", "iterations"):
        _at_least(f"swav.{name}", getattr(c, name), 1)
    _at_least("swav.prototypes", c.prototypes, 2)
    for name in (
        "brightness",
        "contrast",
        "queue",
        "queue_from_epoch",
        "queue_from_step",
        "freeze_iterations",
        "freeze_epochs",
    ):
        _at_least(f"swav.{name}", getattr(c, name), 0)
    _positive("swav", c, ("temperature", "epsilon"))
    if c.queue_from_step and c.queue_from_epoch:
        raise UsageError("swav.queue_from_step and swav.queue_from_epoch exclude each other. Set one of them to 0")
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
    for name in ("mask_near_mm", "soft_hash_bits", "hard_beta"):
        _at_least(f"moco.{name}", getattr(c, name), 0)
    if c.mask_hash_bits is not None:
        _within("moco.mask_hash_bits", c.mask_hash_bits, 0, 63)  # 64, all bits, would hide every key
    if not 0 <= c.class_prior < 1:
        raise UsageError(f"moco.class_prior {c.class_prior:g} is no share below 1. Give 0 <= P < 1, such as 0.1")
    _positive("moco", c, ("temperature",))


def _check_spark(config: PretrainConfig) -> None:
    c = config.spark
    _probabilities("spark", c, ("flip", "drop_path"))
    _ranges("spark", c, ("scale",))
    if c.size < 32 or c.size % 32:
        raise UsageError(f"spark.size {c.size} is no multiple of 32, the side of a masked cell. Give one, such as 224")
    if c.interpolation not in INTERPOLATIONS:
        raise UsageError(f"spark.interpolation {c.interpolation!r} is unknown. Give {' or '.join(INTERPOLATIONS)}")
    cells = (c.size // 32) ** 2
    if not 1 <= round(cells * (1 - c.mask_ratio)) < cells:
        raise UsageError(f"spark.mask_ratio {c.mask_ratio:g} masks all or none of {cells} cells. Give one between")
    if c.decoder_width < 32 or c.decoder_width % 32:
        raise UsageError(f"spark.decoder_width {c.decoder_width} is halved five times. Give a multiple of 32")
    _at_least("spark.variance_floor", c.variance_floor, 0)


def _check_orientation(config: PretrainConfig) -> None:
    _ranges("orientation", config.orientation, ("scale",))
    _at_least("orientation.size", config.orientation.size, 32)


def _check_reconstruct(config: PretrainConfig) -> None:
    c = config.reconstruct
    _ranges("reconstruct", c, ("scale",))
    _check_multiple("reconstruct.size", c.size)
    _positive("reconstruct", c, ("noise", "max_mm"))
    _probabilities("reconstruct", c, ("noise", "mask_margin"))
    _at_least("reconstruct.codes", c.codes, 2)
    for name in ("dead_after", "mse", "masked", "vq", "ssim"):
        _at_least(f"reconstruct.{name}", getattr(c, name), 0)
    check_known("reconstruct.mask_by", c.mask_by, MASKED_BY)
    if config.method == "masked":
        _check_shares(config)


def _check_shares(config: PretrainConfig) -> None:
    c = config.reconstruct
    sides = [share if c.mask_by == "side" else share**0.5 for share in c.shares]
    if not sides or min(sides) <= 0 or max(sides) >= 1 - c.mask_margin:
        shares = ",".join(f"{share:g}" for share in c.shares)
        raise UsageError(
            f"reconstruct.shares {shares}: a square hides nothing, or all. Give shares between, such as 0.2"
        )
    if len(sides) > config.epochs:
        stages = f"reconstruct.shares has {len(sides)} stages for {config.epochs} epochs"
        raise UsageError(f"{stages}. Give fewer, or more --epochs")


def _check_multiple(name: str, side: int) -> None:
    """A side that the autoencoder halves twice, and that SSIM's window of 11 fits."""
    if side < 16 or side % STRIDE:
        raise UsageError(f"{name} {side} is no multiple of {STRIDE} from 16 on. Give one, as vqae needs")


_CHECKS = {
    "swav": _check_swav,
    "moco": _check_moco,
    "spark": _check_spark,
    "orientation": _check_orientation,
    "reconstruct": _check_reconstruct,
}


def check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UsageError for a `value` of `name` that is none of `known`."""
    if value not in known:
        raise unknown(name, value, known)


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise UsageError(f"{name} {value:g} is too small. Give {least:g} or more")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {value:g} is outside {low:g}..{high:g}. Give one within")


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
            raise UsageError(f"{section}.{name} {getattr(part, name):g} is not positive. Give more than 0")
