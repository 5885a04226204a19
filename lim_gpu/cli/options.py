"""Options that several verbs share, and the one place where their texts become what a stage is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lim_gpu.errors import UsageError

if TYPE_CHECKING:
    from lim_gpu.finetune.request import Request as FinetuneRequest
    from lim_gpu.intensity import Intensity
    from lim_gpu.reduction.criterion import Criterion
    from lim_gpu.reduction.request import Request

PATH = click.Path(path_type=Path)
METHOD_HELP = "all, every-n, random, ssim, mi, deepnet or hash."

CRITERION = (
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
)


def criterion_options(function: Any) -> Any:
    """The options that say how slices are compared."""
    for option in CRITERION:
        option(function)
    return function


def names_in(module: str, constant: str) -> Callable[..., list[str]]:
    """What a shell may complete: the names that a constant holds, of a module that is loaded then alone."""

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in getattr(import_module(module), constant) if name.startswith(incomplete)]

    return complete


COMPLETE_METHOD = names_in("lim_gpu.reduction.request", "METHODS")
COMPLETE_SIMILARITY = names_in("lim_gpu.reduction.request", "SIMILARITIES")


class Fraction(click.ParamType):
    """--keep. UsageError for a whole number: 1 could mean all slices or one."""

    name = "fraction"

    def convert(self, value: Any, _parameter: click.Parameter | None, _context: click.Context | None) -> float:  # noqa: D102
        text = str(value)
        if re.fullmatch(r"\s*[+-]?\d+\s*", text):
            other = f", or --keep-count {int(text)}" if int(text) > 0 else ""
            raise UsageError(f"--keep {text} is ambiguous. Give a fraction such as 0.1 (1.0 for all){other}")
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"--keep {text!r} is not a fraction. Give 0 < F <= 1, such as 0.1") from None


class Threshold(click.ParamType):
    """--threshold: a number, or auto."""

    name = "threshold"

    def convert(  # noqa: D102
        self, value: Any, _parameter: click.Parameter | None, _context: click.Context | None
    ) -> float | str:
        from lim_gpu.reduction.request import AUTO

        try:
            return AUTO if value == AUTO else float(value)
        except ValueError:
            text = f"--threshold {str(value)!r} is no number. Give one in the method's own unit, or auto"
            raise UsageError(text) from None


def intensity_of(options: dict[str, Any]) -> Intensity:
    """From --intensity, --window and --hu-range, which are taken out of `options`."""
    from lim_gpu.intensity import Intensity

    given = {name: options.pop(name) for name in ("intensity", "window", "hu_range") if name in options}
    return Intensity.parse(**given)


def criterion_of(options: dict[str, Any]) -> Criterion:
    """From --method and `criterion_options`, which are taken out of `options`."""
    from lim_gpu.reduction.criterion import Criterion

    how = {name: options.pop(name) for name in ("bins", "features", "weights", "precision")}
    return Criterion(options.pop("method"), intensity_of(options), **how)


def reduction_request(options: dict[str, Any], seed: int) -> tuple[Request, bool]:
    """What `reduce` is asked for, and whether the threshold is yet to be found."""
    from lim_gpu.reduction.request import request_for

    return request_for(criterion_of(options), **options, seed=seed)


def store_or_selections(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Selections among the arguments, and the store when the one argument is a folder."""
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError(f"{folders[0]}: give one store, or selections alone")
    return ([], folders[0]) if folders else (list(paths), None)


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
