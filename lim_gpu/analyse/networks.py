"""What an analysis looks at: networks out of checkpoints, and the images of a labelled data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.errors import UsageError
from lim_gpu.labelled.images import Normalisation, load_images, network_input, resized
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import read_table
from lim_gpu.progress import Reporter
from lim_gpu.spread import spread_evenly
from lim_gpu.weights import backbone as backbones
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import find_backbone, per_channel


class Network(torch.nn.Module):
    """A backbone and the linear layer that fine-tuning put on it, where there is one; `sha256` is of their file."""

    def __init__(
        self, encoder: torch.nn.Module, head: torch.nn.Linear | None, normalisation: Normalisation, sha256: str
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.normalisation = normalisation
        self.sha256 = sha256

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or features (B, d) where no head is there."""
        features = self.encoder(images)
        return features if self.head is None else self.head(features)


def load_network(file: CheckpointFile, device: torch.device) -> Network:
    """The network of a checkpoint, in evaluation mode on `device`. Raises InputError as `load_backbone`."""
    content = file.read()
    backbone = find_backbone(file, content)
    encoder = backbones.network(backbone.name, backbone.channels)
    encoder.load_state_dict(backbone.state)
    mean, std = (per_channel(tuple(backbone.preprocess[name]), backbone.channels) for name in ("mean", "std"))
    network = Network(encoder, _head(content), Normalisation(mean, std), backbone.sha256)
    return network.eval().to(device)


def _head(content: dict[str, Any]) -> torch.nn.Linear | None:
    """The layer that fine-tuning put on the backbone, where a checkpoint holds one."""
    state = content.get("state_dict", {})
    if not isinstance(state, dict) or not {"head.weight", "head.bias"} <= set(state):
        return None
    classes, width = state["head.weight"].shape
    head = torch.nn.Linear(width, classes)
    head.load_state_dict({name: state[f"head.{name}"] for name in ("weight", "bias")})
    return head


@dataclass(frozen=True)
class Probe:
    """Images (n, C, S, S) uint8 on the device, their labels (n,) and the names of the classes."""

    pixels: Tensor
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    files: tuple[str, ...]

    def inputs(self, network: Network, batch: int) -> Iterator[Tensor]:
        """Batches (B, channels, S, S) as `network` was trained to see them."""
        for pixels in self.pixels.split(batch):
            yield network_input(pixels, self.pixels.shape[-1], "bilinear", network.normalisation)


def load_probe(data: Path, part: str, most: int, size: int, device: torch.device, reporter: Reporter) -> Probe:
    """At most `most` images of a part ("train", "val", "test" or "all") of a labelled data set, spread over it evenly.

    UsageError where the data have no such part.
    """
    table = read_table(data)
    places = np.arange(len(table))
    if part != "all":
        if table.split is None:
            raise UsageError(f"{data}: fixes no split. Give --part all")
        places = np.flatnonzero(table.split == PARTS.index(part))
    if not len(places):
        raise UsageError(f"{data}: holds no {part} images. Give another --part")
    places = places[spread_evenly(len(places), most)]
    images = load_images(table, size, "bilinear", reporter)
    pixels = images.pixels[torch.from_numpy(places)].to(device)
    if pixels.shape[-1] != size:
        pixels = resized(pixels, size, "bilinear")
    files = tuple(table.files[i] for i in places.tolist())
    return Probe(pixels, table.labels[places], table.classes, files)


def outputs(network: Network, probe: Probe, batch: int = 64) -> NDArray[np.float32]:
    """(n, classes) or (n, d): what the network gives for every image."""
    with torch.no_grad():
        return torch.cat([network(images) for images in probe.inputs(network, batch)]).cpu().numpy()
