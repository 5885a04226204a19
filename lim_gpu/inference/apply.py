"""A network over images: each as the network was trained to see it, what fails left out and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.errors import InputError
from lim_gpu.inference.images import Images, Row
from lim_gpu.inference.made import Made
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.images import network_input, resized
from lim_gpu.network import Network
from lim_gpu.progress import Reporter

BATCH = 64


@dataclass(frozen=True)
class View:
    """How a network sees an image: HU to 0..255, sides of `size` pixels, resized as "bilinear" or "area"."""

    intensity: Intensity
    size: int
    resize: str

    @classmethod
    def of(cls, network: Network, intensity: Intensity | None, reporter: Reporter) -> View:
        """As in its training, but for an `intensity` that is asked for. Says where the training knew none."""
        prepared = network.preprocess
        stated = prepared.get("intensity")
        if intensity is None and stated is None:
            reporter.note("the network was trained on pictures: HU and stored values by each slice's own range")
        resize = "area" if prepared.get("resize") == "area" else "bilinear"
        return cls(intensity or Intensity.described(stated), int(prepared["size"]), resize)

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {"intensity": self.intensity.describe(), "size": self.size, "resize": self.resize}


@dataclass
class Applied:
    """rows: what names each of n images; values (n, d); failures: groups of images that cannot be read, and why."""

    rows: list[Row] = field(default_factory=list)
    values: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[dict[str, str]] = field(default_factory=list)

    def record(self, made: Made, images: Images, network: Network, view: View) -> dict[str, Any]:
        """How it was made."""
        return {
            "format": f"lim-gpu-{made.what}",
            "version": 1,
            "fingerprint": made.fingerprint(images),
            "checkpoint": {"path": str(made.checkpoint), "sha256": network.sha256},
            "data": str(made.data),
            "view": view.describe() | network.normalisation.describe(),
            "images": len(self.rows),
            "failures": self.failures,
        }


def applied(
    images: Images, network: Network, view: View, function: Callable[[Tensor], Tensor], reporter: Reporter
) -> Applied:
    """What `function` makes (b, d) of batches (b, channels, S, S), for all images that can be read.

    Raises UsageError for an intensity that means nothing here, InputError when no image can be read.
    """
    if said := images.check(view.intensity):
        reporter.warn(said)
    found, device = Applied(), next(network.parameters()).device
    values = []
    with torch.no_grad(), reporter.track("images", len(images), "images") as advance:
        for rows, pixels in _gathered(images, view, found.failures, reporter, advance):
            inputs = network_input(pixels.to(device), view.size, view.resize, network.normalisation)
            values.append(function(inputs).cpu().numpy())
            found.rows += rows
    if not values:
        cause = found.failures[0]["cause"] if found.failures else "there is none"
        raise InputError(f"no image can be read: {cause}. Give a store, pictures, or DICOM or NIfTI files")
    found.values = np.concatenate(values)
    return found


def _gathered(
    images: Images, view: View, failures: list[dict[str, str]], reporter: Reporter, advance: Callable[[int], None]
) -> Iterator[tuple[list[Row], Tensor]]:
    """Batches of uint8 (b, C, S, S) across groups, each group whole or among the `failures`."""
    rows: list[Row] = []
    waiting: list[Tensor] = []
    for group in images.groups():
        try:
            own = group.rows()
            waiting += [image for block in group.blocks(view.intensity) for image in _sized(block, view)]
            rows += own
        except InputError as error:
            reporter.error(error)
            failures.append({"images": group.name, "cause": str(error)})
        advance(group.count)
        while len(rows) >= BATCH:
            yield rows[:BATCH], _stacked(waiting[:BATCH])
            rows, waiting = rows[BATCH:], waiting[BATCH:]
    if rows:
        yield rows, _stacked(waiting)


def _sized(block: NDArray[np.uint8], view: View) -> Tensor:
    """Rounded to uint8 once it is resized, as the images of a fine-tuning are."""
    return resized(torch.from_numpy(block), view.size, view.resize)


def _stacked(images: list[Tensor]) -> Tensor:
    colours = max(len(image) for image in images)
    return torch.stack([image.expand(colours, -1, -1) for image in images])
