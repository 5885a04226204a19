"""Labelled procedural images: a bright disc on noise where the label says so."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path):
    """A function that writes a labelled folder: `rows` of dicts with file, label and whatever else."""

    def make(rows, name="data", table="labels.csv", side=40):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(len(rows))
        for row in rows:
            path = folder / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(rng, row["label"], side)).save(path)
        if table:
            with open(folder / table, "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        return folder

    return make


def picture(rng, label, side=40):
    """Noise; with a disc for label "disc", a bar for "bar", and nothing for others."""
    image = rng.normal(80, 20, (side, side))
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.integers(side // 4, 3 * side // 4, 2)
    if label == "disc":
        image[(y - cy) ** 2 + (x - cx) ** 2 < (side / 6) ** 2] += 90
    if label == "bar":
        image[abs(y - cy) < side / 20] -= 60
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def draw():
    """The function that draws one image (side, side): generator, label, side."""
    return picture


@pytest.fixture
def two_classes():
    """60 rows, every second one with a disc."""
    return [{"file": f"i{n:02d}.png", "label": ("disc", "none")[n % 2]} for n in range(60)]
