"""Backbones out of checkpoints of many makers, under torchvision's names; and out again as safetensors.

A file is read without running anything it holds (`weights_only`), unless the caller trusts it. Which maker's layout it
has is decided by vote: the anchored prefix under which most backbone tensors stand. Then every tensor must match a
torchvision ResNet in name and shape: 318 of 318 for resnet50.
"""

from __future__ import annotations

import functools
import json
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import file_sha256, read_json, replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, VERSION = "lim-gpu-checkpoint", 1
WEIGHTS_FORMAT = "lim-gpu-weights"
SUFFIXES = (".ckpt", ".pth", ".pt", ".tar", ".bin", ".safetensors")
SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CT_PAPER = ((0.1806,) * 3, (0.1907,) * 3)  # Wolf et al.: SwAV, MoCo and BYOL on slices scaled to their own range
COVID_PAPER = ((0.56, 0.5596, 0.5596), (0.2905, 0.2907, 0.2908))  # Wolf et al.: fine-tuning
MEDMNIST_PAPER = ((0.5,) * 3, (0.5,) * 3)
SHOWN = 6  # names listed in an error, the others are counted

BACKBONE = re.compile(r"(conv1|bn1|layer\d+)\.")
# nn.Sequential(*list(resnet.children())[:-1]): the places of the children that hold tensors.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
CHILD = re.compile(r"([014567])\.")


@dataclass(frozen=True)
class Layout:
    """Where a maker's files keep the backbone: `prefix` before torchvision's names, or before numbered children."""

    prefix: str
    source: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    numbered: bool = False
    container: str | None = None  # only within this entry of the file

    def rename(self, name: str) -> str | None:
        """The torchvision name of a tensor called `name` in the file; None where it is no part of the backbone."""
        if not name.startswith(self.prefix):
            return None
        rest = name[len(self.prefix) :]
        if self.numbered:
            child = CHILD.match(rest)
            return f"{CHILDREN[child[1]]}.{rest[child.end() :]}" if child else None
        return rest if BACKBONE.match(rest) else None


LAYOUTS = (
    Layout("encoder.", "lim-gpu", CT_PAPER),
    Layout("model.", "SwAV of Wolf et al.", CT_PAPER),
    Layout("encoder_q.", "MoCo of Wolf et al.", CT_PAPER),
    Layout("online_network.encoder.", "BYOL of Wolf et al.", CT_PAPER),
    Layout("", "SparK", IMAGENET, container="module"),
    Layout("sparse_encoder.sp_cnn.", "SparK", IMAGENET),
    Layout("module.", "SwAV of facebookresearch", IMAGENET),
    Layout("module.encoder_q.", "MoCo of facebookresearch", IMAGENET),
    Layout("backbone.", "lightly", IMAGENET),
    Layout("backbone.", "fine-tuned by Wolf et al., or lightly's example", COVID_PAPER, numbered=True),
    Layout("", "torchvision names", IMAGENET),
)


@dataclass(frozen=True)
class Backbone:
    """A torchvision ResNet without `fc`: `state` under torchvision's names, float32 on the CPU (counters int64).

    `source` says what the file was taken for, `preprocess` how its images were made (`preprocess["stated"]` False:
    as its maker is known to do, the file does not say), `sha256` is of the file.
    """

    state: dict[str, Tensor]
    name: str
    channels: int
    source: str
    preprocess: dict[str, Any]
    sha256: str


def preprocess(
    mean: float | tuple[float, ...], std: float | tuple[float, ...], channels: int, **more: Any
) -> dict[str, Any]:
    """How an image becomes the network's input: grey (0..255) / 255, resized with antialiasing, replicated, normalised.

    `more`: "size" in pixels, "intensity" (how grey came of HU, None where it is given as it is), "stated".
    """
    means, stds = (list(per_channel(values, channels)) for values in (mean, std))
    values = {"channels": channels, "size": SIDE, "intensity": {"mapping": "slice-minmax"}, "scale": "uint8 / 255"}
    return values | {"resize": "bilinear, antialiased", "mean": means, "std": stds, "stated": True} | more


def per_channel(values: float | tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value for each channel: as given, one for all, or where their numbers differ the mean of those given."""
    many = (values,) * channels if isinstance(values, float | int) else values
    return tuple(many) if len(many) == channels else (sum(many) / len(many),) * channels


def sidecar(path: Path) -> Path:
    """The JSON beside a checkpoint or weights file, which `info` reads without torch: NAME.ckpt.json."""
    return path.with_name(path.name + ".json")


def load_backbone(path: Path, *, trust: bool = False, expected: str | None = None) -> Backbone:
    """The backbone in a checkpoint or weights file of any of the makers in `LAYOUTS`.

    trust: unpickle what is not tensors too, which runs what the file says; expected: the name the backbone must have.
    Raises InputError that lists what is missing or unexpected, or what a pickle would run.
    """
    digest = file_sha256(path)
    content = read_checkpoint(path, trust=trust)
    layout, found = _vote(path, content)
    name, channels = _match(path, layout, found, expected)
    state = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
    state = {key: value.detach().clone().contiguous() for key, value in state.items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{path}: {key} holds values that are not finite. Give an earlier checkpoint")
    stated = _stated_preprocess(path, content)
    prepared = stated or preprocess(*layout.normalisation, channels, stated=False)
    return Backbone(state, name, channels, layout.source, prepared, digest)


def read_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """What torch.save or safetensors wrote at `path`, on the CPU.

    Raises InputError for a damaged file, and for one that would run code when it is not trusted: the error names what.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on TorchScript and old pickles: what matters is said here
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # a damaged file raises nearly anything: OSError, RuntimeError, EOFError, KeyError, ...
        if not trust and isinstance(error, pickle.UnpicklingError) and (runs := unsafe_globals(path)):
            raise InputError(
                f"{path}: is more than tensors: reading it would run {', '.join(runs)}. "
                "Give --trust only if you trust who made the file"
            ) from None
        if trust and isinstance(error, ImportError | AttributeError):
            raise InputError(
                f"{path}: names what is not installed ({error}). Install the library it was made with"
            ) from None
        raise InputError(f"{path}: cannot be read as a checkpoint ({_cause(error)}). Copy it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state_dict. Save model.state_dict()")
    return content


def unsafe_globals(path: Path) -> list[str]:
    """Functions and classes that unpickling the file would call, beyond torch's own safe ones. Runs nothing."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # not the zip that torch writes since 1.6: several pickles one after the other
        safe = ("torch.", "collections.OrderedDict")
        return sorted({name for name in _pickled_globals(path) if not name.startswith(safe)})


def _pickled_globals(path: Path) -> Iterator[str]:
    """The names of globals in a file of pickles, read without unpickling, up to where the pickles end."""
    with open(path, "rb") as file:
        try:
            while True:
                texts: list[str] = []
                for code, argument, _place in pickletools.genops(file):
                    if code.name in ("GLOBAL", "INST"):
                        yield str(argument).replace(" ", ".")
                    elif code.name == "STACK_GLOBAL":
                        yield ".".join(texts[-2:])
                    elif isinstance(argument, str):
                        texts.append(argument)
        except Exception:  # the raw numbers behind the last pickle
            return


def _cause(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch tells of its weights_only over many lines
        return "not what torch.save wrote"
    return f"{type(error).__name__}: {error}".split("\n", 1)[0].strip()[:160]


def _vote(path: Path, content: dict[str, Any]) -> tuple[Layout, dict[str, Tensor]]:
    """The layout under which most backbone tensors stand, and these under torchvision's names."""
    import torch

    best: tuple[Layout, dict[str, Tensor]] | None = None
    containers = {"": content} | {key: value for key, value in content.items() if isinstance(value, dict)}
    for container, entries in containers.items():
        tensors = {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}
        for layout in LAYOUTS:
            if layout.container not in (None, container):
                continue
            names = ((layout.rename(str(key)), value) for key, value in tensors.items())
            found = {name: value for name, value in names if name is not None}
            if len(found) > (len(best[1]) if best else 0):
                best = layout, found
    if best is None:
        prefixes = ", ".join(repr(layout.prefix) for layout in LAYOUTS if layout.prefix)
        raise InputError(f"{path}: no tensor of a torchvision ResNet, bare or after {prefixes}. Give its checkpoint")
    return best


@functools.cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a backbone with three channels."""
    import torch

    from lim_gpu.backbone import resnet

    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in resnet(name).state_dict().items()}


def _match(path: Path, layout: Layout, found: dict[str, Tensor], expected: str | None) -> tuple[str, int]:
    """Name and channels of the ResNet that `found` is, to the last tensor. Raises InputError that lists what is not."""
    from lim_gpu.backbone import names

    shapes = {key: tuple(value.shape) for key, value in found.items()}
    channels = 1 if shapes.get("conv1.weight", (0, 0))[1:2] == (1,) else 3
    if channels == 1:
        first = shapes["conv1.weight"]
        shapes["conv1.weight"] = (first[0], 3, *first[2:])
    likely = max(
        names(), key=lambda name: len(shapes.items() & _shapes(name).items()) - len(shapes.keys() ^ _shapes(name))
    )
    wanted = expected or likely
    own = _shapes(wanted)
    if shapes == own:
        return wanted, channels
    if shapes == _shapes(likely):
        what, remedy = f"holds {likely}, not {wanted}", f"Give --backbone {likely}, or another checkpoint"
    else:
        what, remedy = f"no whole {wanted}", "Give a checkpoint of a whole torchvision ResNet"
    other = [f"{key} {shapes[key]}" for key in own if key in shapes and shapes[key] != own[key]]
    parts = (
        ("missing", [key for key in own if key not in shapes]),
        ("unexpected", sorted(shapes.keys() - own.keys())),
        ("of another shape", other),
    )
    lists = "; ".join(f"{title} {_listed(items)}" for title, items in parts if items)
    matching = len(shapes.items() & own.items())
    where = f"{layout.source}, {layout.prefix!r}" if layout.prefix else layout.source
    raise InputError(f"{path}: {what}: {matching} of {len(own)} backbone tensors match ({where}); {lists}. {remedy}")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{len(items)}: {', '.join(items[:SHOWN])}{more}"


def _stated_preprocess(path: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """How the file itself, or the JSON beside it, says that its images were made."""
    own = content.get("lim_gpu")
    if isinstance(own, dict) and isinstance(own.get("preprocess"), dict):
        return dict(own["preprocess"])
    if sidecar(path).is_file():
        beside = read_json(sidecar(path))
        if isinstance(beside, dict) and isinstance(beside.get("preprocess"), dict):
            return dict(beside["preprocess"])
    return None


@dataclass(frozen=True)
class Exported:
    """`values` for a program, `lines` for a person."""

    values: dict[str, Any]
    lines: list[str]


def export(
    path: Path, output: Path, *, trust: bool = False, overwrite: bool = False, dry_run: bool = False
) -> Exported:
    """Write the backbone of a checkpoint as safetensors with torchvision's names, and NAME.safetensors.json beside it.

    What stands at `output` and was made of the same file is left. Raises UsageError when something else stands there.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: give a name that ends in .safetensors")
    digest = file_sha256(path)
    plan = {"checkpoint": str(path), "checkpoint_sha256": digest, "output": str(output)}
    standing = _standing_export(output, digest, overwrite)
    if dry_run:
        line = f"unchanged: {output}" if standing else f"plan: backbone of {path} -> {output}, {sidecar(output).name}"
        return Exported(plan | {"dry_run": True, "unchanged": standing is not None}, [line])
    if standing is not None:
        return Exported(
            standing | plan | {"unchanged": True}, [f"unchanged: {output}", *loading_lines(standing, output)]
        )
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    backbone = load_backbone(path, trust=trust)
    with replacing(output) as temporary:
        try:
            save_file(backbone.state, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error).split("\n")[0]) from error
        written = file_sha256(temporary)
        record = _export_record(path, backbone, written)
        write_text(sidecar(output), json.dumps(record, indent=1, allow_nan=False) + "\n")
    first = f"{len(backbone.state)} tensors of {backbone.name} ({backbone.source}) -> {output}"
    return Exported(
        plan | record, [first, f"preprocess: {_one_line(backbone.preprocess)}", *loading_lines(record, output)]
    )


def _export_record(path: Path, backbone: Backbone, written: str) -> dict[str, Any]:
    import lim_gpu

    made = {"name": path.name, "sha256": backbone.sha256, "source": backbone.source} | _progress_of(path)
    return {
        "format": WEIGHTS_FORMAT,
        "version": VERSION,
        "backbone": backbone.name,
        "channels": backbone.channels,
        "tensors": len(backbone.state),
        "preprocess": backbone.preprocess,
        "checkpoint": made,
        "sha256": written,
        "lim_gpu": lim_gpu.__version__,
    }


def _progress_of(path: Path) -> dict[str, Any]:
    """Method, epoch and step, where the JSON beside one of our checkpoints tells them."""
    if not sidecar(path).is_file():
        return {}
    beside = read_json(sidecar(path))
    return {
        key: beside[key] for key in ("method", "epoch", "global_step") if isinstance(beside, dict) and key in beside
    }


def _standing_export(output: Path, digest: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of what stands at `output` when it is whole and of this checkpoint; UsageError for anything else."""
    if not output.exists():
        return None
    try:
        record = read_json(sidecar(output))
        if record["checkpoint"]["sha256"] == digest and record["sha256"] == file_sha256(output):
            return dict(record)
    except (InputError, KeyError, TypeError):
        pass
    if not overwrite:
        raise UsageError(f"{output}: exists and was made otherwise. Give --overwrite, or another -o")
    return None


def loading_lines(record: dict[str, Any], output: Path) -> list[str]:
    """How exported weights are loaded in torchvision, timm and MONAI, a line each."""
    name, channels = record["backbone"], record["channels"]
    lines = [f'state = safetensors.torch.load_file("{output.name}")']
    if channels == 3:
        lines.append(
            f"torchvision: {name}().load_state_dict(state, strict=False)  # missing: fc.weight and fc.bias alone"
        )
    lines.append(f'timm: timm.create_model("{name}", num_classes=0, in_chans={channels}).load_state_dict(state)')
    if re.fullmatch(r"resnet\d+", name):
        lines.append(
            f"MONAI: monai.networks.nets.{name}(spatial_dims=2, n_input_channels={channels}, shortcut_type='B', "
            "bias_downsample=False, feed_forward=False, conv1_t_stride=2).load_state_dict(state)"
        )
        lines.append("MONAI's default conv1_t_stride=1 loads without an error and computes something else")
    return lines


def describe_checkpoint(path: Path, *, trust: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Method, epoch, schedule state and configuration of a checkpoint: values for a program, lines for a person.

    Ours are told from the JSON beside them, without torch; others are read with torch.
    """
    if sidecar(path).is_file():
        record = read_json(sidecar(path))
        if isinstance(record, dict) and record.get("format") in (FORMAT, WEIGHTS_FORMAT):
            if not path.is_file():
                raise InputError(f"{path}: does not exist, only the JSON beside it")
            return {"kind": "checkpoint", "path": str(path)} | record, _own_lines(path, record)
    digest = file_sha256(path)
    content = read_checkpoint(path, trust=trust)
    layout, found = _vote(path, content)
    values: dict[str, Any] = {"kind": "checkpoint", "path": str(path), "sha256": digest, "source": layout.source}
    lines = [f"checkpoint {path}: {layout.source}, backbone at {layout.prefix!r}", f"sha256 {digest}"]
    try:
        name, channels = _match(path, layout, found, None)
        values |= {"backbone": name, "channels": channels, "tensors": len(found), "complete": True}
        lines.append(f"backbone {name}, {channels} channels, {len(found)} of {len(found)} tensors")
    except InputError as error:
        values |= {"tensors": len(found), "complete": False, "cause": str(error)}
        lines.append(str(error).removeprefix(f"{path}: "))
    training = _training_state(content)
    values |= training
    lines += [f"{key} {_one_line(value)}" for key, value in training.items()]
    return values, lines


def _own_lines(path: Path, record: dict[str, Any]) -> list[str]:
    told = {key: value for key, value in record.items() if key not in ("format", "version")}
    head = " ".join(str(told.pop(key)) for key in ("method", "backbone") if key in told)
    place = ", ".join(f"{key} {told.pop(key)}" for key in ("epoch", "global_step") if key in told)
    lines = [f"checkpoint {path}: " + ", ".join(text for text in (head, place) if text)]
    return lines + [f"{key} {_one_line(value)}" for key, value in told.items()]


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} ({_one_line(v)})" if isinstance(v, dict) else f"{k} {v}" for k, v in value.items())
    return str(value)


def _training_state(content: dict[str, Any]) -> dict[str, Any]:
    """What a foreign file tells of its training: what settles which schedule its weights really saw."""
    state: dict[str, Any] = {}
    for key in ("epoch", "global_step", "arch", "pytorch-lightning_version"):
        if isinstance(content.get(key), int | str):
            state[key] = content[key]
    schedulers, optimizers = content.get("lr_schedulers"), content.get("optimizer_states")
    if isinstance(schedulers, list) and schedulers and isinstance(schedulers[0], dict):
        state["schedule"] = {k: _plain(schedulers[0][k]) for k in ("last_epoch", "_last_lr") if k in schedulers[0]}
    first = optimizers[0] if isinstance(optimizers, list) and optimizers else content.get("optimizer")
    groups = first.get("param_groups") if isinstance(first, dict) else None
    if isinstance(groups, list):
        own = [{k: _plain(v) for k, v in group.items() if k != "params"} for group in groups if isinstance(group, dict)]
        state["optimizer"] = {str(place): group for place, group in enumerate(own)}
    hyper = content.get("hyper_parameters")
    hyper = hyper if isinstance(hyper, dict) else getattr(hyper, "__dict__", None)
    if hyper:
        state["configuration"] = {str(k): _plain(v) for k, v in hyper.items()}
    return state


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)
