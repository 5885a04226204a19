"""Where slices lie in space: spacing along the normal, affine, and what is wrong with them. Lengths in mm, LPS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OBLIQUE = 0.8  # largest |component| of the normal below which a plane has no anatomical name, as in dicom3tools
GAP = 1.5  # of the median distance: from there on a slice is missing
UNEVEN = 0.01  # of the median distance; ITK once warned of 3e-15 mm
UNEVEN_MM = 0.01  # positions are written with as few as two decimals
TILT = 0.1  # degrees
SAME_PLACE = 1e-3  # mm along the normal: below any slice distance, above rounding

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Plane:
    """What all slices of a volume share: directions of a row and a column (6), distances between rows and columns."""

    orientation: Vector | None
    spacing: Vector | None
    thickness: float | None


@dataclass(frozen=True)
class Placement:
    """Where the slices of a volume lie.

    `z` (n,): mm along the normal, or 0, 1, 2, ... where no position is known. `spacing`: mm between slices, rows and
    columns. `affine` (4, 4): voxel (column, row, slice) to LPS mm; for unevenly spaced slices that of the median step.
    """

    z: list[float]
    spacing: tuple[float, float, float] | None = None
    affine: list[list[float]] | None = None
    orientation: str = ""
    defects: dict[str, Any] = field(default_factory=dict)


def normal(orientation: Vector) -> tuple[float, float, float]:
    """row x column: the direction in which slices ascend (PS3.3 C.7.6.2.1.1); a unit vector for unit vectors."""
    a, b, c, d, e, f = orientation
    return b * f - c * e, c * d - a * f, a * e - b * d


def orthonormal(orientation: Vector) -> bool:
    """Whether row and column are perpendicular unit vectors within 1 % (files hold 3 to 16 digits)."""
    row, column = orientation[:3], orientation[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    return all(abs(length - 1) < 0.01 for length in lengths) and abs(float(np.dot(row, column))) < 0.01


def place(plane: Plane, positions: Sequence[Vector | None], thicknesses: Sequence[float | None] = ()) -> Placement:
    """Describe ordered slices by the positions of their first voxels, and their thicknesses where they are known.

    Positions may be unknown, all of them at once.
    """
    n = len(positions)
    if plane.orientation is None or any(position is None for position in positions):
        return Placement([float(i) for i in range(n)], defects={"no_position": True})
    points = np.array(positions, dtype=np.float64)  # (n, 3)
    unit = np.array(normal(plane.orientation))
    unit /= np.linalg.norm(unit)
    z = points @ unit
    steps = np.diff(z)
    step = float(np.median(steps)) if n > 1 else (plane.thickness or 0.0)
    direction = (points[-1] - points[0]) / (z[-1] - z[0]) if n > 1 else unit
    defects = _uneven(z, thicknesses) | _tilt(direction, unit) if n > 1 else {}
    name = _plane_name(unit)
    if plane.spacing is None or step <= 0:
        return Placement(z.tolist(), None, None, name, defects)
    row, column = plane.spacing
    affine = np.eye(4)
    affine[:3, 0] = np.array(plane.orientation[:3]) * column
    affine[:3, 1] = np.array(plane.orientation[3:]) * row
    affine[:3, 2] = direction * step
    affine[:3, 3] = points[0]
    return Placement(z.tolist(), (step, row, column), affine.tolist(), name, defects)


def gaps(z: np.ndarray, thicknesses: Sequence[float | None]) -> np.ndarray:
    """Between which of the slices at ascending `z` (n,) a slice is missing: (n - 1,) booleans.

    Where thicknesses vary, as the 4 and 7 mm of a head CT do, so may the distances.
    """
    steps = np.diff(z)
    usual = np.full(len(steps), np.median(steps) if len(steps) else 0.0)
    thick = np.array(thicknesses, dtype=np.float64)
    if len(steps) and len(thick) and (thick > 0).all():
        usual *= np.maximum(1, np.maximum(thick[1:], thick[:-1]) / np.median(thick))
    return steps > GAP * usual


def _uneven(z: np.ndarray, thicknesses: Sequence[float | None]) -> dict[str, Any]:
    steps = np.diff(z)
    step, missing = float(np.median(steps)), gaps(z, thicknesses)
    found: dict[str, Any] = {}
    if missing.any():
        found["gaps"] = [[int(i), round(float(steps[i]), 3)] for i in np.flatnonzero(missing)]
    present = steps[~missing]
    if np.abs(present - step).max(initial=0) > max(UNEVEN * step, UNEVEN_MM):
        found["uneven_spacing"] = {"min": round(float(present.min()), 3), "max": round(float(present.max()), 3)}
    return found


def _tilt(direction: np.ndarray, unit: np.ndarray) -> dict[str, Any]:
    """The angle between the way from slice to slice and the normal: that of a tilted gantry."""
    sine = float(np.linalg.norm(np.cross(direction, unit)))
    degrees = math.degrees(math.atan2(sine, float(direction @ unit)))
    return {"gantry_tilt": round(degrees, 2)} if degrees > TILT else {}


def _plane_name(unit: np.ndarray) -> str:
    axis = int(np.argmax(np.abs(unit)))
    return ("sagittal", "coronal", "axial")[axis] if abs(unit[axis]) >= OBLIQUE else "oblique"
