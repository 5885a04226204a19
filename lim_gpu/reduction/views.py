"""How two views of a slice are made for `threshold="auto"`: as the large crops of a training. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Views:
    """The large crops of a training, see `lim_gpu.augment`.

    name         of the training, for the record
    scale        of the area that a crop takes, from..to
    brightness, contrast, jitter   the most that they change, and how often
    blur, blur_sigma               how often, and pixels from..to
    """

    name: str
    scale: tuple[float, float]
    brightness: float
    contrast: float
    jitter: float
    blur: float
    blur_sigma: tuple[float, float]


SWAV = Views("swav wolf2024-paper", (0.9, 1.0), 0.4, 0.4, 0.8, 0.5, (0.1, 2.0))  # Wolf et al. 2024, as they state them
