"""Backbones out of checkpoints of many makers, under torchvision's names.

Which maker's layout a file has is decided by vote: the anchored prefix under which most backbone tensors stand. Then
every tensor must match a torchvision ResNet, or vqae's encoder, in name and shape: 318 of 318 for resnet50. A network
of timm is not guessed: the file, the JSON beside it, or who asks names it.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lim_gpu.errors import InputError
from lim_gpu.files import read_json
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.names import BACKBONES, is_timm

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, VERSION = "lim-gpu-checkpoint", 1
WEIGHTS_FORMAT = "lim-gpu-weights"  # of what is exported
SUFFIXES = (".ckpt", ".pth", ".pt", ".tar", ".bin", ".safetensors")
SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CT_PAPER = ((0.1806,) * 3, (0.1907,) * 3)  # Wolf et al.: SwAV, MoCo and BYOL on slices scaled to their own range
COVID_PAPER = ((0.56, 0.5596, 0.5596), (0.2905, 0.2907, 0.2908))  # Wolf et al.: fine-tuning
MEDMNIST_PAPER = ((0.5,) * 3, (0.5,) * 3)
SHOWN = 6  # names listed in an error, the others are counted

BACKBONE = re.compile(r"(conv1|bn1|layer\d+|e[123]|residual)\.")  # a ResNet's, or those of vqae's encoder
FIRST = ("conv1.weight", "e1.0.weight")  # their first convolutions
# nn.Sequential(*list(resnet.children())[:-1]): the places of the children that hold tensors.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
LAST_LAYER = re.compile(r"(^|\.)(fc|classifier)\.(weight|bias)$")
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
WRAPPERS = ("module.", "model.", "net.", "network.")  # in front of a layout: by data parallelism, or a training's own
CHAINS = ("", *WRAPPERS, *map("".join, itertools.product(WRAPPERS, repeat=2)))


@dataclass(frozen=True)
class Backbone:
    """A ResNet without `fc`, vqae's encoder, a network of timm: `state` under its own names, float32 (counters int64).

    `source` says what the file was taken for, `prefix` what stood before its names, `preprocess` how its images were
    made (`preprocess["stated"]` False: as its maker is known to do, the file does not say), `sha256` is of the file.
    `head`: the last layer of a fine-tuned network of ours, "fc.weight" and "fc.bias" of its `classes`; else empty.
    `left_out`: tensors of the file that look like another maker's last layer. `unfinished`: how far a pre-training of
    ours is that has not ended, "" of all others.
    """

    state: dict[str, Tensor]
    name: str
    channels: int
    source: str
    preprocess: dict[str, Any]
    sha256: str
    prefix: str = ""
    head: dict[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unfinished: str = ""

    @property
    def origin(self) -> str:
        """What the file was taken for, and how far it is."""
        return ", ".join(filter(None, (self.source, self.unfinished)))


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


def told_beside(path: Path) -> dict[str, Any]:
    """What the JSON beside a file of ours says of it; nothing where there is none, or another program's."""
    if not sidecar(path).is_file():
        return {}
    record = read_json(sidecar(path))
    return record if isinstance(record, dict) and record.get("format") in (FORMAT, WEIGHTS_FORMAT) else {}


def default_features(path: str | Path | None) -> str:
    """What DeepNet compares where nothing is said: "pooled" of a backbone of ours, which classifies nothing."""
    return "pooled" if path is not None and told_beside(Path(path)) else "logits"


def load_backbone(path: Path, *, trust: bool = False, expected: str | None = None) -> Backbone:
    """The backbone in a checkpoint or weights file of any of the makers in `LAYOUTS`.

    trust: unpickle what is not tensors too, which runs what the file says; expected: the name the backbone must have.
    Raises InputError that lists what is missing or unexpected, or what a pickle would run.
    """
    with CheckpointFile(path, trust=trust) as file:
        return find_backbone(file, file.read(), expected)


def find_backbone(file: CheckpointFile, content: dict[str, Any], expected: str | None = None) -> Backbone:
    """The backbone in the `content` of a file, as `load_backbone`."""
    name = expected or own_name(file.path, content)
    if is_timm(name):
        layout, found, channels = of_timm(file.path, content, name)
    else:
        layout, found = vote(file.path, content)
        name, channels = match(file.path, layout, found, expected)
    state = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
    state = {key: value.detach().clone().contiguous() for key, value in state.items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{file.path}: {key} holds values that are not finite. Give an earlier checkpoint")
    stated = _stated_preprocess(file.path, content)
    prepared = stated or preprocess(*layout.normalisation, channels, stated=False)
    head, classes = _own_head(content)
    left_out = () if head else _last_layer(content)
    made = (prepared, file.sha256, layout.prefix, head, classes, left_out, _unfinished(file.path))
    return Backbone(state, name, channels, layout.source, *made)


def _unfinished(path: Path) -> str:
    told = told_beside(path)
    if told.get("finished", True):
        return ""
    return f"of step {told['global_step']:,} of {told['total_steps']:,}, not finished"


def own_name(path: Path, content: dict[str, Any]) -> str:
    """The backbone that a file of ours, or the JSON beside it, says that it holds; "" of others."""
    own = content.get("lim_gpu")
    told = own if isinstance(own, dict) else told_beside(path)
    config = told.get("config")
    return str((config if isinstance(config, dict) else told).get("backbone", ""))


def of_timm(path: Path, content: dict[str, Any], name: str) -> tuple[Layout, dict[str, Tensor], int]:
    """Where a network of timm stands, its state and its channels. InputError unless it is there to the last tensor."""
    from lim_gpu.weights.timm_models import timm_normalisation, timm_state

    found, channels, prefix = timm_state(path, content, name)
    return Layout(prefix, "lim-gpu" if "lim_gpu" in content else "timm", timm_normalisation(name)), found, channels


def _own_head(content: dict[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The last layer of a network that `finetune` saved, under torchvision's names, with the names of its classes."""
    about, state = content.get("lim_gpu"), content.get("state_dict")
    if not isinstance(about, dict) or about.get("method") != "finetune":  # others have a head of their pretext
        return {}, ()
    if not isinstance(state, dict) or "head.weight" not in state:
        return {}, ()
    head = {f"fc.{part}": state[f"head.{part}"].detach().clone().contiguous() for part in ("weight", "bias")}
    return head, tuple(about["classes"])


def _last_layer(content: dict[str, Any]) -> tuple[str, ...]:
    """Names of tensors that a classifier is made of, in the file or a part of it."""
    parts = [content, *(part for part in content.values() if isinstance(part, dict))]
    names = {name for part in parts for name in part if isinstance(name, str)}
    return tuple(sorted(name for name in names if LAST_LAYER.search(name)))


def vote(path: Path, content: dict[str, Any]) -> tuple[Layout, dict[str, Tensor]]:
    """The layout under which most backbone tensors stand, wrapped or not, and these under torchvision's names."""
    import torch

    from lim_gpu.weights.states import plain_state

    best: tuple[Layout, dict[str, Tensor]] | None = None
    containers = {"": content} | {key: value for key, value in content.items() if isinstance(value, dict)}
    for container, entries in containers.items():
        tensors = plain_state({str(k): value for k, value in entries.items() if isinstance(value, torch.Tensor)})
        for chain, plain in itertools.product(CHAINS, LAYOUTS):
            layout = replace(plain, prefix=chain + plain.prefix)
            if layout.container not in (None, container):
                continue
            names = ((layout.rename(key), value) for key, value in tensors.items())
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

    from lim_gpu.weights.backbone import network

    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in network(name).state_dict().items()}


def match(path: Path, layout: Layout, found: dict[str, Tensor], expected: str | None) -> tuple[str, int]:
    """Name and channels of the backbone that `found` is, to the last tensor. InputError lists what is not."""

    shapes = {key: tuple(value.shape) for key, value in found.items()}
    grey = [name for name in FIRST if shapes.get(name, (0, 0))[1:2] == (1,)]
    channels = 1 if grey else 3
    for name in grey:
        shapes[name] = (shapes[name][0], 3, *shapes[name][2:])
    likely = max(
        BACKBONES, key=lambda name: len(shapes.items() & _shapes(name).items()) - len(shapes.keys() ^ _shapes(name))
    )
    wanted = expected or likely
    own = _shapes(wanted)
    if shapes == own:
        return wanted, channels
    if shapes == _shapes(likely):
        what, remedy = f"holds {likely}, not {wanted}", f"Give --backbone {likely}, or another checkpoint"
    else:
        what, remedy = f"no whole {wanted}", "Give a checkpoint of a whole torchvision ResNet, or of vqae"
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


def as_text(value: Any) -> str:
    """A value of a record on one line, mappings without braces."""
    if isinstance(value, dict):
        return ", ".join(f"{k} ({as_text(v)})" if isinstance(v, dict) else f"{k} {v}" for k, v in value.items())
    return str(value)
