"""Procedural CT: chest, abdomen and head phantoms.

Nothing here is meant to be an anatomy; it has what the engine must cope with: a body that changes along the axis,
lungs, ribs and spine, a table, padding outside the field of view, noise, and neighbours that are nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

AIR, FAT, SOFT, LIVER, HEART, BONE, MARROW, LUNG, TABLE, BRAIN, CSF = (
    -1000, -95, 40, 62, 48, 900, 250, -840, -150, 34, 8,
)  # HU  # fmt: skip
NOISE = 11.0  # HU, standard deviation
LUNG_CENTRE = 0.40  # x of the left lung, -x of the right one
Field = NDArray[np.float64]
Painter = Callable[[Field, float, Field, Field, np.random.Generator], None]


def phantom(kind: str, slices: int, height: int, width: int, seed: int) -> NDArray[np.int16]:
    """HU (slices, height, width) of a "chest", "abdomen" or "head", from feet to head; the same for the same seed."""
    painter: Painter = {"chest": _chest, "abdomen": _abdomen, "head": _head}[kind]
    rng = np.random.default_rng([seed, *kind.encode()])
    body = rng.normal(0, 0.015, 8)  # this patient's own proportions
    return scanned(painted(painter, slices, height, width, body, seed), (slices, height, width), rng)


def painted(painter: Painter, slices: int, height: int, width: int, body: Field, seed: int) -> Iterator[Field]:
    """HU (height, width) of every slice, without noise. body: how much wider [0] and deeper [1] the patient is."""
    x, y = plane(height, width)
    for i in range(slices):
        hu = np.full((height, width), float(AIR))
        _paint(hu, TABLE, _ellipse(x, y, 0, 1.35, 1.25, 0.52) & ~_ellipse(x, y, 0, 1.35, 1.19, 0.47))
        own = np.random.default_rng([seed, 7])
        painter(hu, i / max(slices - 1, 1), x * (1 + body[0]), y * (1 + body[1]), own)
        yield hu


def scanned(slices: Iterable[Field], shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.int16]:
    """The volume of `shape` that a scanner makes of slices: with noise, and padded outside its round field of view."""
    x, y = plane(*shape[1:])
    volume = np.empty(shape, dtype=np.int16)
    for i, hu in enumerate(slices):
        noisy = hu + rng.normal(0, NOISE, hu.shape)
        noisy[x**2 + y**2 > 1.06] = -1024
        volume[i] = np.clip(np.rint(noisy), -1024, 3071)
    return volume


def plane(height: int, width: int) -> tuple[Field, Field]:
    """x to the patient's left and y to the back, -1..1, of every pixel."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return x, y


def _ellipse(x: Field, y: Field, cx: float, cy: float, rx: float | Field, ry: float | Field) -> NDArray[np.bool_]:
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1


def _paint(hu: Field, value: float, where: NDArray[np.bool_]) -> None:
    hu[where] = value


def _trunk(hu: Field, along: float, x: Field, y: Field) -> tuple[float, float]:
    """Skin, fat, muscle and spine; returns the half-axes of the body."""
    rx, ry = 0.84 - 0.10 * along + 0.03 * np.sin(9 * along), 0.60 - 0.05 * along
    _paint(hu, FAT, _ellipse(x, y, 0, 0.02, rx, ry))
    _paint(hu, SOFT, _ellipse(x, y, 0, 0.02, rx - 0.06, ry - 0.06))
    vertebra = np.cos(2 * np.pi * 6.5 * along)  # six and a half vertebrae with their discs
    spine = 0.11 + 0.012 * vertebra
    _paint(hu, BONE if vertebra > -0.5 else 650, _ellipse(x, y, 0, 0.42, spine, spine * 0.8))
    _paint(hu, MARROW, _ellipse(x, y, 0, 0.42, spine * 0.8, spine * 0.62))
    _paint(hu, CSF, _ellipse(x, y, 0, 0.53, 0.035, 0.03))
    return rx, ry


def _chest(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    rx, ry = _trunk(hu, along, x, y)
    inside = lungs(along, x, y)
    _paint(hu, LUNG, inside)
    for cx, cy, radius, drift in rng.uniform((-0.62, -0.36, 0.006, -0.3), (0.62, 0.36, 0.026, 0.3), (60, 4)):
        _paint(hu, SOFT, inside & _ellipse(x, y, cx + drift * (along - 0.5), cy, radius, radius * 1.2))
    _heart_and_ribs(hu, along, x, y, rx, ry)


def thorax(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    """A chest whose lungs hold nothing yet."""
    rx, ry = _trunk(hu, along, x, y)
    _paint(hu, LUNG, lungs(along, x, y))
    _heart_and_ribs(hu, along, x, y, rx, ry)


def lungs(along: float | Field, x: Field, y: Field) -> NDArray[np.bool_]:
    """Where the lungs of a chest are, `along` of its height from below (0..1)."""
    swell = np.sin(np.pi * (0.12 + 0.82 * along)) ** 0.6
    both = [_ellipse(x, y, side * LUNG_CENTRE, 0.0, 0.29 * swell, 0.42 * swell) for side in (-1, 1)]
    middle = 0.24 * np.sin(np.pi * np.minimum(1.0, 0.2 + along)) + 0.05
    return (both[0] | both[1]) & ~_ellipse(x, y, 0.10, -0.08, middle, 0.25)


def _heart_and_ribs(hu: Field, along: float, x: Field, y: Field, rx: float, ry: float) -> None:
    _paint(hu, HEART, _ellipse(x, y, 0.08, -0.10, 0.23 * (1 - 0.75 * along), 0.22 * (1 - 0.6 * along)))
    _paint(hu, HEART + 120, _ellipse(x, y, 0.05, 0.22, 0.07, 0.07))
    for angle in np.linspace(0, 2 * np.pi, 18, endpoint=False) + 5.0 * along:
        if abs(np.sin(angle)) < 0.97:
            _paint(
                hu, BONE, _ellipse(x, y, (rx - 0.10) * np.cos(angle), 0.02 + (ry - 0.10) * np.sin(angle), 0.05, 0.025)
            )


def _abdomen(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    _trunk(hu, along, x, y)
    liver = 0.34 * np.clip(0.2 + 1.2 * along, 0, 1)
    _paint(hu, LIVER, _ellipse(x, y, -0.36, -0.10, liver, liver * 0.95))
    for side in (-1, 1):
        kidney = 0.13 * np.sqrt(max(0.0, 1 - ((along - 0.4 - 0.05 * side) / 0.3) ** 2))
        if kidney > 0:
            _paint(hu, SOFT + 70, _ellipse(x, y, side * 0.36, 0.26, kidney * 0.8, kidney))
            _paint(hu, FAT, _ellipse(x, y, side * 0.33, 0.25, kidney * 0.3, kidney * 0.35))
    for cx, cy, radius, phase in rng.uniform((-0.45, -0.38, 0.04, 0), (0.5, 0.05, 0.09, 6), (12, 4)):
        where = _ellipse(x, y, cx + 0.06 * np.sin(8 * along + phase), cy, radius, radius * 0.8)
        _paint(hu, -700 if phase < 2 else SOFT - 15, where)
    _paint(hu, HEART + 110, _ellipse(x, y, 0.05, 0.24, 0.055, 0.055))


def _head(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    size = np.sqrt(max(0.12, 1 - (0.25 + 0.72 * along) ** 3))
    rx, ry = 0.62 * size, 0.78 * size
    _paint(hu, SOFT, _ellipse(x, y, 0, 0, rx + 0.05, ry + 0.05))
    _paint(hu, BONE + 300, _ellipse(x, y, 0, 0, rx, ry))
    _paint(hu, BRAIN, _ellipse(x, y, 0, 0, rx - 0.07, ry - 0.07))
    ventricle = 0.16 * max(0.0, 1 - ((along - 0.55) / 0.3) ** 2)
    for side in (-1, 1):
        _paint(hu, CSF, _ellipse(x, y, side * 0.10, -0.05, ventricle * 0.4 + 1e-6, ventricle + 1e-6))
        if along < 0.25:
            _paint(hu, AIR, _ellipse(x, y, side * 0.12, -0.55, 0.08, 0.10))
    for cx, cy, radius in rng.uniform((-0.4, -0.5, 0.01), (0.4, 0.5, 0.04), (14, 3)):
        _paint(hu, BRAIN + 5, _ellipse(x, y, cx * size, cy * size, radius, radius))
