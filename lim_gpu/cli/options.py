"""Options that several verbs share, and the one place where their texts become what a stage is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from lim_gpu.errors import UsageError, unknown

if TYPE_CHECKING:
    from lim_gpu.finetune.request import Request as FinetuneRequest
    from lim_gpu.intensity import Intensity
    from lim_gpu.reduction.criterion import Criterion
    from lim_gpu.reduction.request import Request


class Place(click.Path):
    """A path; `~` is the user's folder also where no shell has seen it, as in --output=~/x."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:  # noqa: D102
        return super().convert(os.path.expanduser(value), parameter, context)


PATH = Place(path_type=Path)
METHOD_HELP = "all, every-n, random, ssim, mi, deepnet or hash."
OWNERS = {"bins": "mi", "features": "deepnet", "weights": "deepnet", "precision": "deepnet"}  # the method of each

INTENSITY = (
    click.option(
        "--body",
        is_flag=True,
        help="CT: what lies outside the patient (the table, air, padding) becomes 0: all but the largest region above "
        "-300 HU of each slice and its holes.",
    ),
    click.option("--hu-range", metavar="LO:HI", help="Map this range of HU to 0..255."),
    click.option(
        "--window",
        metavar="NAME|LEVEL,WIDTH",
        help="lung, abdomen, bone, brain, chest, angio, soft-tissue, or a level and a width in HU.",
    ),
    click.option(
        "--intensity",
        type=click.Choice(["slice-minmax", "volume-percentile"]),
        default="slice-minmax",
        show_default=True,
        help="What becomes 0..255: each slice's own minimum..maximum, as the paper; or the 0.5th to the 99.5th "
        "percentile of the volume, for MR and PT.",
    ),
)
CRITERION = (
    click.option(
        "--weights",
        type=PATH,
        metavar="FILE",
        help="deepnet: a checkpoint, ours or another maker's, or torchvision's resnet50; default: its IMAGENET1K_V1.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        help="deepnet: bfloat16 is faster, and may select other slices; default: float32.",
    ),
    click.option(
        "--features",
        type=click.Choice(["logits", "pooled"]),
        help="deepnet: the 1000 outputs, or what is pooled before the classifier; default: logits, of our checkpoints "
        "pooled.",
    ),
    click.option(
        "--bins",
        type=click.IntRange(2, 256),
        help="mi: bins a side of the joint histogram; default: 100.",
    ),
    *INTENSITY,
)


CLUSTER = (
    click.option("--cpus-per-task", type=click.IntRange(min=1), metavar="N", help="CPUs of a process there (1)."),
    click.option(
        "--ray",
        is_flag=False,
        flag_value="auto",
        metavar="[ADDRESS]",
        help="The hosts of a Ray cluster do the work: auto (of this machine or RAY_ADDRESS), local or HOST:PORT.",
    ),
)


SHARD = click.option(
    "--shard",
    metavar="I/N",
    help="Do every N-th part of the work, as one task of an array does (0/N to N-1/N, or 1/N to N/N); then the same "
    "command without --shard puts all together, and does what is missing.",
)


def cluster_options(function: Any) -> Any:
    """The options that say which hosts do the work."""
    for option in CLUSTER:
        option(function)
    return function


def criterion_options(function: Any) -> Any:
    """The options that say how slices are compared."""
    for option in CRITERION:
        option(function)
    return function


def intensity_options(function: Any) -> Any:
    """The options that say how stored values become 0..255."""
    for option in INTENSITY:
        option(function)
    return function


class OneOf(click.ParamType):
    """One of the names that a constant of a module holds, however they are capitalised; a shell may complete them.

    Named by texts, for the module is loaded where one is given alone, and no default. UsageError for another, with the
    nearest.
    """

    name = "name"

    def __init__(self, module: str, constant: str) -> None:
        self._place = module, constant

    @property
    def known(self) -> tuple[str, ...]:
        """The names."""
        module, constant = self._place
        return tuple(getattr(import_module(module), constant))

    def convert(self, value: Any, parameter: click.Parameter | None, _context: click.Context | None) -> str:  # noqa: D102
        if parameter is not None and value == parameter.default:
            return str(value)
        same = [name for name in self.known if name.lower() == str(value).lower()]
        if same:
            return same[0]
        raise unknown(parameter.opts[0] if parameter else self.name, str(value), self.known)

    def shell_complete(  # noqa: D102
        self, _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.known if name.startswith(incomplete.lower())]


METHOD = OneOf("lim_gpu.reduction.request", "METHODS")
SIMILARITY = OneOf("lim_gpu.reduction.request", "SIMILARITIES")


class Fraction(click.ParamType):
    """--keep. UsageError for a whole number: 1 could mean all slices or one."""

    name = "fraction"

    def convert(self, value: Any, _parameter: click.Parameter | None, _context: click.Context | None) -> float:  # noqa: D102
        text = str(value).strip()
        whole = int(text) if re.fullmatch(r"[+-]?\d+", text) else 0
        if whole == 1:
            raise UsageError("--keep 1 is ambiguous. Give a fraction such as 0.1 (1.0 for all), or --keep-count 1")
        count = f", or --keep-count {whole}" if whole > 1 else ""
        try:
            fraction = float(text)
        except ValueError:
            fraction = 0
        if not 0 < fraction <= 1:
            raise UsageError(f"--keep {text} is not a fraction. Give 0 < F <= 1, such as 0.1{count}")
        return fraction


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
    """From --intensity, --window, --hu-range and --body, which are taken out of `options`."""
    from lim_gpu.intensity import Intensity

    given = {name: options.pop(name) for name in ("intensity", "window", "hu_range", "body") if name in options}
    return Intensity.parse(**given)


def stated_intensity(options: dict[str, Any]) -> Intensity | None:
    """From --window and --hu-range, which are taken out of `options`; None where neither is given."""
    from lim_gpu.intensity import Intensity

    given = {name: options.pop(name) for name in ("window", "hu_range")}
    return Intensity.parse(**given) if any(given.values()) else None


def criterion_of(options: dict[str, Any]) -> Criterion:
    """From --method and `criterion_options`, which are taken out of `options`."""
    from lim_gpu.reduction.criterion import Criterion

    method = options.pop("method")
    how = {name: options.pop(name) for name in OWNERS}
    given = {name: value for name, value in how.items() if value is not None}
    for name in given:
        if method != OWNERS[name]:
            raise UsageError(f"--{name} belongs to {OWNERS[name]}, not to {method}. Leave it out")
    _check_intensity(method, options)
    return Criterion(method, intensity_of(options), **given)


def _check_intensity(method: str, options: dict[str, Any]) -> None:
    from lim_gpu.intensity import SLICE_MINMAX
    from lim_gpu.reduction.request import BASELINES

    unsaid = (None, False, SLICE_MINMAX)
    given = [name for name in ("window", "hu_range", "intensity", "body") if options.get(name) not in unsaid]
    if given and method in BASELINES:
        raise UsageError(f"--{given[0].replace('_', '-')} belongs to what compares, not to {method}. Leave it out")


def reduction_request(options: dict[str, Any], seed: int) -> tuple[Request, bool]:
    """What `reduce` is asked for, and whether the threshold is yet to be found."""
    from lim_gpu.reduction.request import request_for

    return request_for(criterion_of(options), **options, seed=seed)


def one_folder(**folders: Path | None) -> tuple[str, Path]:
    """The name and the folder of the one option that is given. UsageError for none or several."""
    given = [(name, folder) for name, folder in folders.items() if folder is not None]
    if len(given) != 1:
        named = " and ".join(f"--{name}" for name, _ in given)
        what = f"{named} exclude each other" if given else "nothing says where to"
        raise UsageError(f"{what}. Give one of {', '.join(f'--{name} DIR' for name in folders)}")
    return given[0]


def store_or_selections(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Selections among the arguments, and the store when the one argument is a folder."""
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError(f"{folders[0]}: is a store, and stands beside others. Give one store, or selections alone")
    return ([], folders[0]) if folders else (list(paths), None)


def pretraining_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `lim_gpu.pretrain.run.pretrain`: how HU are mapped becomes an intensity, --set a mapping."""
    overrides = parse_overrides(options["overrides"])
    if (strength := options.pop("strength", None)) is not None:
        if "strength" in overrides:
            raise UsageError("--strength and --set strength say the same. Give one of them")
        overrides["strength"] = strength
    return options | {"intensity": intensity_of(options), "overrides": overrides}


def pretext_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `lim_gpu.analyse.pretext.pretext`. UsageError for labelled data, which it does not take."""
    if options["data"] is not None:
        raise UsageError("--data belongs to cka, tsne, gradcam and probe. Give pretext a store: CHECKPOINT STORE")
    return {name: options[name] for name in ("selection", "images", "size", "shown", "overwrite", "dry_run")}


def comparison_options(options: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The labelled data, and the other keywords of `lim_gpu.analyse.analyse`. UsageError without data."""
    data, selection = options.pop("data"), options.pop("selection")
    if data is None or selection is not None:
        raise UsageError("give --data with labelled images; --selection belongs to pretext")
    return data, options | {"size": options["size"] or 224}


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """The --set options NAME=VALUE as a mapping. Raises UsageError for another form, and for a name given twice."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r} is not NAME=VALUE. Give a setting such as swav.queue=3840")
        if name.strip() in found:
            raise UsageError(f"--set {name.strip()} is given twice. Give it once")
        found[name.strip()] = value.strip()
    return found


def finetuning_request(options: dict[str, Any], seed: int) -> FinetuneRequest:
    """What `lim_gpu.finetune.run.finetune` is asked for."""
    from lim_gpu.finetune.protocol import mirrors, protocol
    from lim_gpu.finetune.request import Request

    names = ("epochs", "head_epochs", "batch_size", "lr", "size", "flip", "precision")
    changes = {name: options.pop(name) for name in names}
    if changes["flip"] is None:
        changes["flip"] = mirrors(options["data"])
    intensity = intensity_of(options)
    return Request(protocol=protocol(options.pop("protocol"), **changes), **options, intensity=intensity, seed=seed)
