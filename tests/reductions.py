"""What reductions keep, and stores that they meet."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from lim_gpu.reduction.parts import UnitResult
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore

RESULTS, MEASURES = "[0-9a-f]*.result.npz", "*[0-9a-f].npz"  # of a folder of parts; no name of a temporary file


def kept_of(selection: Selection) -> dict[str, list[int]]:
    """The places of the kept slices of each volume."""
    return {volume.key: np.flatnonzero(volume.kept).tolist() for volume in selection.volumes}


def cut_short(store: SliceStore, place: int) -> str:
    """Cut the end off the file of a volume, and return its key."""
    key = store.volumes[place].key
    file = store.path / "volumes" / f"{key}.h5"
    file.write_bytes(file.read_bytes()[:-2000])
    return key


def contents(csv: Path) -> dict[str, bytes]:
    """The CSV, and what was measured of each unit."""
    parts = csv.with_suffix(".parts")
    return {"csv": csv.read_bytes()} | {file.name: file.read_bytes() for file in sorted(parts.glob(MEASURES))}


def assert_same_result(found: UnitResult | None, expected: UnitResult) -> None:
    """Equal field by field, dtypes included."""
    assert found is not None
    for field in fields(UnitResult):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None)
