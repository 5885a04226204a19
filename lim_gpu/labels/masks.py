"""Masks of slices as PNG files: 0 where nothing is, else the number of what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.errors import InputError
from lim_gpu.files import replacing
from lim_gpu.labels.origins import Place
from lim_gpu.pictures import decode_picture

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Marked:
    """What one source says of one volume: masks (H, W) by slice; slices without one hold nothing."""

    volume: str
    masks: Mapping[int, Mask]


@dataclass
class MaskFolder:
    """Writes masks below `folder`; None: counts them alone. volumes, slices: what has been marked so far."""

    folder: Path | None
    volumes: set[str] = field(default_factory=set)
    slices: set[Place] = field(default_factory=set)

    def add(self, marked: Marked) -> None:
        """Write the masks of a volume; where another marked something before, the higher number counts."""
        self.volumes.add(marked.volume)
        for i, mask in marked.masks.items():
            if mask.any():
                self._write(Place(marked.volume, i), mask)

    def _write(self, place: Place, mask: Mask) -> None:
        before = place in self.slices
        self.slices.add(place)
        if self.folder is None:
            return
        path = self.folder / mask_name(place)
        whole = np.maximum(mask, decode_picture(path)[0]) if before else mask
        with replacing(path) as temporary:
            Image.fromarray(whole).save(temporary, format="png")


def mask_name(place: Place) -> str:
    """The path of a mask below the folder of its table."""
    return f"masks/{place.volume}/{place.slice:04d}.png"


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where a mask (H, W) is not 0. Raises InputError for what is no picture."""
    try:
        pixels, _ = decode_picture(path, colour=True)
    except InputError as error:
        raise InputError(f"{path}: cannot be decoded ({error}). Replace the mask") from None
    return (pixels != 0).any(axis=2) if pixels.ndim == 3 else pixels != 0
