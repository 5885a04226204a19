"""A network out of a checkpoint: a backbone, its classifier where it has one, and how it was trained to see images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lim_gpu.labelled.images import Normalisation
from lim_gpu.weights.backbone import network
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import Backbone, find_backbone, per_channel


class Network(torch.nn.Module):
    """A backbone and the linear layer that fine-tuning put on it, where there is one.

    name        of the backbone
    sha256      of their file
    preprocess  how an image became its input, as `lim_gpu.weights.load.preprocess` tells it
    about       what the file says of itself (classes, temperature); nothing where it is not ours
    """

    def __init__(self, backbone: Backbone, content: dict[str, Any]) -> None:
        super().__init__()
        self.name = backbone.name
        self.encoder = network(backbone.name, backbone.channels)
        self.encoder.load_state_dict(backbone.state)
        self.head = _head(content)
        scales = (per_channel(tuple(backbone.preprocess[name]), backbone.channels) for name in ("mean", "std"))
        self.normalisation = Normalisation(*scales)
        self.sha256 = backbone.sha256
        self.preprocess = backbone.preprocess
        about = content.get("lim_gpu")
        self.about: dict[str, Any] = about if isinstance(about, dict) else {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or features (B, d) where no head is there."""
        features: Tensor = self.encoder(images)
        return features if self.head is None else self.head(features)


def load_network(path: Path, device: torch.device, *, trust: bool = False) -> Network:
    """The network of a checkpoint, in evaluation mode on `device`. Raises InputError as `load_backbone`."""
    with CheckpointFile(path, trust=trust) as file:
        return network_of(file, device)


def network_of(file: CheckpointFile, device: torch.device) -> Network:
    """The same of an open file."""
    content = file.read()
    return Network(find_backbone(file, content), content).eval().to(device)


def _head(content: dict[str, Any]) -> torch.nn.Linear | None:
    """The layer that fine-tuning put on the backbone, where a checkpoint holds one."""
    state = content.get("state_dict", {})
    if not isinstance(state, dict) or not {"head.weight", "head.bias"} <= set(state):
        return None
    classes, width = state["head.weight"].shape
    head = torch.nn.Linear(width, classes)
    head.load_state_dict({name: state[f"head.{name}"] for name in ("weight", "bias")})
    return head
