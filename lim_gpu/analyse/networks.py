"""What an analysis looks at: the images of a labelled data set, and what networks make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.errors import UsageError
from lim_gpu.labelled.images import load_images, network_input, resized
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import read_table
from lim_gpu.network import Network
from lim_gpu.progress import Reporter
from lim_gpu.spread import spread_evenly


@dataclass(frozen=True)
class Probe:
    """Images (n, C, S, S) uint8 on the device, their labels (n,) and the names of the classes.

    groups: (n,) equal for images of one patient, and for equal images.
    """

    pixels: Tensor
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
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
    return Probe(pixels, table.labels[places], table.groups(images.digests)[places], table.classes, files)


def features(network: Network, probe: Probe, batch: int = 64) -> NDArray[np.float32]:
    """(n, d): what the backbone gives for every image, whatever stands on it."""
    with torch.no_grad():
        return torch.cat([network.encoder(images) for images in probe.inputs(network, batch)]).cpu().numpy()


def outputs(network: Network, probe: Probe, batch: int = 64) -> NDArray[np.float32]:
    """(n, classes) or (n, d): what the network gives for every image."""
    with torch.no_grad():
        return torch.cat([network(images) for images in probe.inputs(network, batch)]).cpu().numpy()
