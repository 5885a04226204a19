"""Options that several verbs share, and how their texts become values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lim_gpu.errors import UsageError

if TYPE_CHECKING:
    from lim_gpu.finetune.request import Request as FinetuneRequest

PATH = click.Path(path_type=Path)
METHOD_HELP = "all, every-n, random, ssim, mi, deepnet or hash."


def criterion_options(function: Any) -> Any:
    """The options that say how slices are compared."""
    for option in (
        click.option(
            "--weights",
            type=PATH,
            metavar="FILE",
            help="deepnet: ResNet50 weights; default: torchvision's IMAGENET1K_V1.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="deepnet: bfloat16 is faster, and may select other slices.",
        ),
        click.option(
            "--features",
            type=click.Choice(["logits", "pooled"]),
            default="logits",
            show_default=True,
            help="deepnet: the 1000 outputs or the 2048 pooled features.",
        ),
        click.option(
            "--bins",
            type=click.IntRange(2, 256),
            default=100,
            show_default=True,
            help="mi: bins a side of the joint histogram.",
        ),
        click.option("--hu-range", metavar="LO:HI", help="Map this range of HU to 0..255."),
        click.option(
            "--window",
            metavar="NAME|LEVEL,WIDTH",
            help="lung, abdomen, bone, brain, chest, angio, or a level and a width in HU.",
        ),
        click.option(
            "--intensity",
            type=click.Choice(["slice-minmax"]),
            default="slice-minmax",
            show_default=True,
            help="Each slice's own minimum..maximum to 0..255, as the paper.",
        ),
    ):
        option(function)
    return function


def pretraining_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `lim_gpu.pretrain.run.pretrain`: --window and --hu-range become an intensity, --set a mapping."""
    from lim_gpu.intensity import Intensity

    intensity = Intensity.parse(window=options.pop("window"), hu_range=options.pop("hu_range"))
    return options | {"intensity": intensity, "overrides": parse_overrides(options["overrides"])}


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
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


def finetuning_request(options: dict[str, Any], seed: int) -> FinetuneRequest:
    """What `lim_gpu.finetune.run.finetune` is asked for."""
    from lim_gpu.finetune.protocol import mirrors, protocol
    from lim_gpu.finetune.request import Request

    changes = {name: options.pop(name) for name in ("epochs", "head_epochs", "batch_size", "lr", "size", "flip")}
    if changes["flip"] is None:
        changes["flip"] = mirrors(options["data"])
    return Request(protocol=protocol(options.pop("protocol"), **changes), **options, seed=seed)
