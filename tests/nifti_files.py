"""NIfTI files that the tests write, and how ingest reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("nibabel")

import nibabel as nib

from lim_gpu.ingest.nifti import nifti_plan, nifti_slices, read_nifti
from lim_gpu.ingest.records import NiftiVolume
from lim_gpu.ingest.scan import walk

RAS = np.diag([0.7, 0.8, 3.0, 1.0])


def voxels(shape=(6, 5, 4), dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(dtype)


def write(path: Path, data: np.ndarray, affine: np.ndarray = RAS, header=None, kind=nib.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(kind(data, affine, header), path)
    return path


def scanned(path: Path):
    (found,) = walk([path], leave_out=[]).files
    return read_nifti(found)


def read(path: Path):
    """Pixels (n, rows, columns), the plan, and what was counted."""
    volume = scanned(path)
    assert isinstance(volume, NiftiVolume), volume
    slices = list(nifti_slices(volume, path.parent))
    plan = nifti_plan(volume, "CT", None)
    assert plan.shape == (len(slices), *slices[0].pixels.shape)
    assert plan.dtype == slices[0].pixels.dtype
    return np.stack([s.pixels for s in slices]), plan, sum(s.counts["clamped"] for s in slices)


def patch(path: Path, at: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
