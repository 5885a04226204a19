"""Chests after contrast: arteries and veins that fill the lungs, emboli within arteries, nodules, and their masks.

As the other phantoms no anatomy; vessels, clots and nodules have sizes and HU that CT pulmonary angiography shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lim_gpu.phantom.bodies import LUNG_CENTRE, SOFT, Field, lungs, painted, scanned, thorax

HALF, TALL = 200.0, 200.0  # mm from the middle of an image to its edge; from the lowest slice to the highest
ARTERIES, VEINS = 350, 200  # HU: the contrast is on its way through the lungs
CLOT = 33  # HU of acute emboli: Wittram et al. 2005, Radiology 235, 1050
TRUNK = 12.5  # mm, radius of the main artery: Truong et al. 2012, Circ Cardiovasc Imaging 5, 147: 25.1 +- 2.8 wide
ATRIAL = 7.0  # mm, radius of a vein where it reaches the heart
REACH = 0.4  # of the way to the middle of what a branch supplies: Tawhai et al. 2000, Ann Biomed Eng 28, 793
EXPONENT = 2.5  # of radii, whose powers add up at a fork; Murray's 3 leaves vessels at the pleura too thick for CT
TIPS = {ARTERIES: 500, VEINS: 250}  # of a lung; what is smaller CT does not show
CLOTTED = (2.5, 10.0)  # mm, radii of arteries that an embolus lies in: segmental ones to that of a lung
NODULE = (3.0, 10.0)  # mm, radii: from 6 mm in diameter on nodules are followed up (Fleischner Society 2017)
# mm: the way of the blood from the right ventricle to the root of each lung, and back to the left one
OUTFLOW, FORK = np.array([6.0, -32.0, 80.0]), np.array([12.0, -10.0, 120.0])
HILA = {-1: np.array([-24.0, 0.0, 112.0]), 1: np.array([50.0, 0.0, 120.0])}
ATRIUM = {-1: np.array([-4.0, 10.0, 96.0]), 1: np.array([34.0, 10.0, 98.0])}
Point = NDArray[np.float64]  # (3,): x to the left, y to the back, z to the head, in mm


@dataclass(frozen=True)
class Angiogram:
    """A volume (n, H, W) and what is in it.

    hu       int16
    arteries bool, emboli included
    emboli, nodules  uint8: the number of each from 1, else 0
    spacing  of slices, rows and columns in mm
    """

    hu: NDArray[np.int16]
    arteries: NDArray[np.bool_]
    emboli: NDArray[np.uint8]
    nodules: NDArray[np.uint8]
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Tube:
    """A round piece with round ends, from a point to another, of a radius in mm at each."""

    start: Point
    end: Point
    radius: float
    last: float


def angiogram(slices: int, height: int, width: int, seed: int, *, emboli: int = 3, nodules: int = 2) -> Angiogram:
    """A chest after contrast, from feet to head; the same for the same seed.

    Findings are wide enough for the voxels to show them. There may be fewer emboli than asked for, where few arteries
    are so wide.
    """
    rng = np.random.default_rng([seed, *b"angiogram"])
    body = rng.normal(0, 0.015, 8)
    voxels = Voxels.of((slices, height, width), body)
    arteries = [*_arteries(rng)]
    clots = [*_clots(arteries, emboli, max(CLOTTED[0], 0.75 * voxels.edge), rng)]
    filled = {ARTERIES: voxels.share(arteries), VEINS: voxels.share(_veins(rng))}
    clotted = [voxels.share(one) * (filled[ARTERIES] > 0.5) for one in clots]
    lumps = [voxels.share(_nodule(0.75 * max(voxels.spacing), rng)) for _ in range(nodules)]
    hu = np.stack([*painted(thorax, slices, height, width, body, seed)])
    for value, share in [*((v, filled[v]) for v in (VEINS, ARTERIES)), *((CLOT, c) for c in clotted)]:
        hu += share * (value - hu)
    for share in lumps:
        hu += share * (SOFT - hu)
    free = np.all([share <= 0.5 for share in lumps], axis=0) if lumps else np.True_
    return Angiogram(
        scanned(hu, hu.shape, rng), filled[ARTERIES] > 0.5, _numbered(clotted, hu) * free, _numbered(lumps, hu),
        voxels.spacing,
    )  # fmt: skip


@dataclass(frozen=True)
class Voxels:
    """The places in mm of a volume's slices, rows and columns in the body, and their distances in the scanner."""

    axes: tuple[Field, Field, Field]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, shape: tuple[int, int, int], body: Field) -> Voxels:
        """Those of a volume (n, H, W) of a patient's proportions."""
        ends = ((0.0, TALL), (-HALF, HALF), (-HALF, HALF))
        z, y, x = (np.linspace(*limits, size) for limits, size in zip(ends, shape, strict=True))
        spacing = tuple((high - low) / max(size - 1, 1) for (low, high), size in zip(ends, shape, strict=True))
        return cls((z, y * (1 + body[1]), x * (1 + body[0])), spacing)  # type: ignore[arg-type]

    @property
    def edge(self) -> float:
        """Of a cube as large as a voxel, in mm."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def share(self, tubes: Iterable[Tube]) -> NDArray[np.float32]:
        """How much of every voxel the tubes fill, 0..1: half where a surface runs through its middle."""
        filled = np.zeros([len(axis) for axis in self.axes], dtype=np.float32)
        for tube in tubes:
            box = self._box(tube)
            z, y, x = np.ix_(*(axis[part] for axis, part in zip(self.axes, box, strict=True)))
            part = np.clip(0.5 - _distance(tube, x, y, z) / self.edge, 0, 1)
            filled[box] = np.maximum(filled[box], part)
        return filled

    def _box(self, tube: Tube) -> tuple[slice, ...]:
        """The voxels about a tube."""
        low, high = np.minimum(tube.start, tube.end)[::-1], np.maximum(tube.start, tube.end)[::-1]
        reach = max(tube.radius, tube.last) + self.edge
        limits = zip(self.axes, low - reach, high + reach, strict=True)
        return tuple(slice(*np.searchsorted(axis, (first, last))) for axis, first, last in limits)


def _distance(tube: Tube, x: Field, y: Field, z: Field) -> Field:
    """From the surface of a tube, negative within."""
    way = tube.end - tube.start
    from_start = (x - tube.start[0], y - tube.start[1], z - tube.start[2])
    along = sum(part * one for part, one in zip(from_start, way, strict=True)) / max(way @ way, 1e-9)
    along = np.clip(along, 0, 1)
    across = sum((part - along * one) ** 2 for part, one in zip(from_start, way, strict=True))
    return np.asarray(np.sqrt(across) - tube.radius - along * (tube.last - tube.radius))


def _arteries(rng: np.random.Generator) -> Iterator[Tube]:
    """The right ventricle, the main artery, those of the lungs, and all their branches."""
    yield Tube(OUTFLOW - (0, 0, 40), OUTFLOW, 17, TRUNK)
    yield Tube(OUTFLOW, FORK, TRUNK, TRUNK)
    for side, hilum in HILA.items():
        radius = TRUNK * 0.5 ** (1 / EXPONENT)
        yield Tube(FORK, hilum, radius, radius)
        yield from _branches(_in_lung(side, TIPS[ARTERIES], rng), hilum, radius)


def _veins(rng: np.random.Generator) -> Iterator[Tube]:
    """The branches of the veins, the left atrium and the left ventricle."""
    yield Tube(ATRIUM[-1], ATRIUM[1], 14, 14)
    yield Tube(ATRIUM[1] - (8, 24, 36), ATRIUM[1] - (14, 10, 12), 16, 14)
    for side, root in ATRIUM.items():
        yield from _branches(_in_lung(side, TIPS[VEINS], rng), root, ATRIAL)


def _branches(tips: Field, start: Point, radius: float) -> Iterator[Tube]:
    """The tree that supplies `tips` (m, 3) from `start`: a branch, then those of either half of its tips."""
    end = tips[0] if len(tips) == 1 else start + REACH * (tips.mean(axis=0) - start)
    parts = _halves(tips, end - start) if len(tips) > 1 else []
    radii = [radius * (len(part) / len(tips)) ** (1 / EXPONENT) for part in parts]
    yield Tube(start, end, radius, max(radii, default=radius / 2))
    for part, own in sorted(zip(parts, radii, strict=True), key=lambda one: -one[1]):
        yield from _branches(part, end, own)


def _halves(points: Field, way: Point) -> list[Field]:
    """Points on either side of a plane along `way` through their middle, across where they spread most."""
    unit = way / max(float(np.linalg.norm(way)), 1e-9)
    offset = points - points.mean(axis=0)
    across = offset - np.outer(offset @ unit, unit)
    widest = np.linalg.svd(across, full_matrices=False)[2][0]
    first = across @ widest > 0
    if first.all() or not first.any():  # points on one line
        first = np.arange(len(points)) < len(points) // 2
    return [points[first], points[~first]]


def _in_lung(side: int, count: int, rng: np.random.Generator, margin: float = 1.08) -> Field:
    """Random points (count, 3) in mm within the left (1) or right (-1) lung, off its wall. margin: of the wall, > 1."""
    found, centre = np.empty((0, 3)), side * LUNG_CENTRE
    while len(found) < count:
        x, y, along = rng.uniform((0.08, -0.42, 0.05), (0.7, 0.42, 0.95), (64 + 4 * count, 3)).T
        inside = lungs(along, centre + margin * (side * x - centre), margin * y)
        drawn = np.stack([side * x * HALF, y * HALF, along * TALL], axis=1)
        found = np.concatenate([found, drawn[inside]])
    return found[:count]


def _clots(arteries: Sequence[Tube], count: int, least: float, rng: np.random.Generator) -> Iterator[list[Tube]]:
    """Emboli in different arteries of a radius of at least `least` mm, in wide ones rather, each of the way through its
    artery and half of the larger branch after it; a rim of contrast stays.
    """
    pairs = [(one, after) for one, after in pairwise(arteries) if after.start is one.end]
    wide = [pair for pair in pairs[::2] if least <= pair[0].radius <= CLOTTED[1]]
    share = np.array([one.radius**2 for one, _ in wide])
    for i in rng.choice(len(wide), min(count, len(wide)), replace=False, p=share / share.sum()) if wide else ():
        thick, (one, after) = rng.uniform(0.6, 0.85), wide[i]
        begin, stop = one.start + 0.2 * (one.end - one.start), after.start + 0.5 * (after.end - after.start)
        yield [
            Tube(begin, one.end, thick * one.radius, thick * one.last),
            Tube(after.start, stop, thick * after.radius, thick * after.last),
        ]


def _nodule(least: float, rng: np.random.Generator) -> list[Tube]:
    """A lump of three lobes, of a radius of at least `least` mm."""
    (centre,) = _in_lung(int(rng.choice((-1, 1))), 1, rng, margin=1.3)
    low, high = NODULE
    radius = rng.uniform(max(low, least), max(high, least))
    ways = rng.normal(size=(3, 3))
    ways *= 0.45 * radius / np.linalg.norm(ways, axis=1, keepdims=True)
    return [Tube(centre, centre + way, 0.8 * radius, 0.6 * radius) for way in ways]


def _numbered(shares: Sequence[NDArray[np.float32]], like: Field) -> NDArray[np.uint8]:
    """The number of the finding that fills more than half of a voxel, else 0."""
    numbers = np.zeros(like.shape, dtype=np.uint8)
    for number, share in enumerate(shares, 1):
        numbers[share > 0.5] = number
    return numbers
