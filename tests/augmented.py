"""Slices to augment, and what Pillow makes of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom

GREY = 1 / 255
SIZES = ((97, 83), (64, 120), (33, 33), (120, 41))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def four_slices():
    """Two CT-like slices and two of noise and of black and white, of different sizes, padded with 77."""
    rng = np.random.default_rng(0)
    images = [
        Intensity.parse().to_uint8(phantom("chest", 1, *SIZES[0], seed=1))[0],
        Intensity.parse().to_uint8(phantom("head", 1, *SIZES[1], seed=2))[0],
        rng.integers(0, 256, SIZES[2], dtype=np.uint8),
        rng.choice(np.array([0, 255], np.uint8), SIZES[3]),
    ]
    pixels = torch.full((4, 120, 120), 77, dtype=torch.uint8)
    for i, image in enumerate(images):
        pixels[i, : image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    return pixels, torch.tensor(SIZES)


def pillow(pixels, i, box=None):
    top, left, height, width = box or (0, 0, *SIZES[i])
    return Image.fromarray(pixels[i, top : top + height, left : left + width].numpy())


def as_float(image):
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
