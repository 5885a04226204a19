"""Stores that the tests make themselves: small volumes with redundancy, several patients and shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lim_gpu.ingest import ingest
from lim_gpu.phantom import phantom

SHAPES = (("chest", 14, 48, 40), ("abdomen", 9, 36, 44), ("chest", 11, 48, 40), ("head", 1, 33, 33))


def make_sources(folder: Path, shapes=SHAPES) -> Path:
    """8-bit PNG volumes pNN_vNN_<slice>.png; every two volumes belong to one patient."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, n, height, width) in enumerate(shapes):
        volume = phantom(kind, n, height, width, seed=number)
        pixels = np.clip((volume.astype(float) + 1024) / 2048 * 255, 0, 255).astype(np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"p{number // 2:02d}v{number:02d}_{i}.png")
    return folder


def make_store(folder: Path, shapes=SHAPES) -> Path:
    """A store of `make_sources`, with the patient taken from the name."""
    sources = make_sources(folder / "sources", shapes)
    ingest([sources], folder / "slices", patient_pattern=r"(p\d+)v", workers=1)
    return folder / "slices"
