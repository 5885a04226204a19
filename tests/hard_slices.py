"""Slices on which similarity code goes wrong: constant, saturated, ramps, odd sizes, near-duplicates, noise, CT."""

from __future__ import annotations

import numpy as np

from lim_gpu.phantom import phantom


def constant() -> np.ndarray:
    """Black, white, two greys one apart, and a slice that is constant but for one pixel."""
    slices = np.stack([np.full((31, 45), value, np.uint8) for value in (0, 255, 127, 128, 254)])
    slices[4, 20, 30] = 255
    return slices


def saturated() -> np.ndarray:
    """Large areas at 0 and 255 with a texture of one grey value, where float32 cancellation is worst."""
    row, column = np.mgrid[:96, :96]
    textures = (0 * row, column % 2, (row + column) % 2, column % 3, column * 4 // 96, row % 5)
    areas = (np.ones((96, 96), bool), column >= 48, (row // 32 + column // 32) % 2 == 1)
    return np.stack([np.where(area, 255 - texture, texture).astype(np.uint8) for area in areas for texture in textures])


def ramps() -> np.ndarray:
    """Rising, falling, steep and wrapping ramps along both axes; no two neighbours equal in some."""
    row, column = np.mgrid[:40, :67]
    values = (column * 3, 255 - column * 3, row * 6, row + column, 255 - row - column, column * 37 % 256)
    return np.stack(values).astype(np.uint8)


def near_duplicates() -> np.ndarray:
    """One textured slice, itself again, one grey value up, one pixel changed, slightly noisy, mirrored."""
    rng = np.random.default_rng(5)
    base = rng.integers(20, 230, (37, 53)).astype(np.uint8)
    pixel = base.copy()
    pixel[18, 26] ^= 128
    noisy = (base.astype(int) + rng.integers(-1, 2, base.shape)).astype(np.uint8)
    return np.stack([base, base, base + 1, pixel, noisy, base[:, ::-1]])


def noise() -> np.ndarray:
    """Uniform, binary and sparse noise."""
    rng = np.random.default_rng(6)
    sparse = np.where(rng.random((2, 64, 50)) < 0.01, 255, 0)
    return np.concatenate([rng.integers(0, 256, (3, 64, 50)), 255 * rng.integers(0, 2, (2, 64, 50)), sparse]).astype(
        np.uint8
    )


def ct_like() -> np.ndarray:
    """A procedural chest: half of it background, dominant soft tissue, little bone."""
    hu = phantom("chest", 8, 90, 110, seed=3).astype(float)
    low, high = hu.min(axis=(1, 2), keepdims=True), hu.max(axis=(1, 2), keepdims=True)
    return np.rint((hu - low) / (high - low) * 255).astype(np.uint8)


def odd_sizes() -> list[np.ndarray]:
    """Stacks of textured slices: the smallest SSIM takes, a row more, wider and higher than a tile, primes."""
    rng = np.random.default_rng(7)
    sizes = ((11, 11), (12, 11), (11, 40), (27, 26), (13, 531), (59, 17), (26, 266), (31, 37))
    return [np.cumsum(rng.integers(0, 9, (4, *size)), axis=2).astype(np.uint8) for size in sizes]


STACKS = {stack.__name__: stack for stack in (constant, saturated, ramps, near_duplicates, noise, ct_like)}


def as_float(slices: np.ndarray) -> np.ndarray:
    """The same pictures as float32 that are no whole numbers, in about 0..1, so that no product is exact."""
    return (slices.astype(np.float32) * np.float32(0.9871) + np.float32(0.123)) / np.float32(255)
