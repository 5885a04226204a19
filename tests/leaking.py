"""Pictures and lists in which near-duplicates are looked for."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 96) -> np.ndarray:
    """Smooth random grey, other for other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))
