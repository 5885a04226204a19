"""Ingest of uncompressed DICOM, each tool as a process of its own: wall clock, and CPU seconds of all its processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from bench.parts import Row
from lim_gpu.store.slices import SliceStore

SLICES, SERIES, SIDE, ROUNDS = 1000, 8, 512, 3
# Waits for orphans as well, which are the fork server's: prctl(PR_SET_CHILD_SUBREAPER) makes them children of this.
MEASURE = """
import contextlib, ctypes, os, resource, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
LOOP = """
import pathlib, sys, numpy, pydicom
files = [pydicom.dcmread(path) for path in pathlib.Path(sys.argv[1]).iterdir()]
files.sort(key=lambda file: file.ImagePositionPatient[2])
pixels = [file.pixel_array * file.RescaleSlope + file.RescaleIntercept for file in files]
numpy.save(sys.argv[2], numpy.stack(pixels).astype(numpy.int16))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SLICES files of noise in SERIES series, HU = stored - 1024."""
    folder = tmp_path_factory.mktemp("dicom")
    template = pydicom.examples.ct
    rng = np.random.default_rng(0)
    for i in range(SLICES):
        pixels = rng.integers(0, 3000, (SIDE, SIDE), dtype=np.int16)
        template.Rows, template.Columns, template.PixelData = SIDE, SIDE, pixels.tobytes()
        template.RescaleSlope, template.RescaleIntercept = 1, -1024
        template.PixelSpacing, template.ImagePositionPatient = [0.7, 0.7], [0, 0, i]
        template.ImageType, template.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], i + 1
        template.SeriesInstanceUID = f"1.2.4.{i % SERIES}"
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i + 1}"
        template.save_as(folder / f"{i}.dcm")
    return folder


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command that writes into `folder`, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(done.stdout)


@pytest.mark.budget(60)
def test_ingest(source: Path, tmp_path: Path, record: Callable[[Row], None]) -> None:
    python, out, store = sys.executable, tmp_path / "out", tmp_path / "out" / "store"
    peers = {
        "lim_gpu, ingest": [
            sys.executable,
            "-m",
            "lim_gpu",
            "ingest",
            str(source),
            "-o",
            str(out / "store"),
            "--quiet",
        ],
        "pydicom, loop": [python, "-c", LOOP, str(source), str(out / "loop.npy")],
    }
    measured(peers["lim_gpu, ingest"], out)
    with SliceStore(store) as opened:
        pixels = np.concatenate([volume.read() for volume in opened])
    measured(peers["pydicom, loop"], out)
    assert sorted(map(bytes, np.load(out / "loop.npy"))) == sorted(map(bytes, pixels))
    _time(peers, out, record)


@pytest.mark.budget(30)
def test_dcm2niix(source: Path, tmp_path: Path, record: Callable[[Row], None]) -> None:
    binary = shutil.which("dcm2niix") or pytest.skip("no dcm2niix on the PATH (pip install dcm2niix)")
    out = tmp_path / "out"
    _time({"dcm2niix": [binary, "-z", "n", "-o", str(out), str(source)]}, out, record)
    assert sum(path.stat().st_size for path in out.glob("*.nii")) > 2 * SLICES * SIDE * SIDE


def _time(peers: dict[str, list[str]], out: Path, record: Callable[[Row], None]) -> None:
    for peer, command in peers.items():
        rounds = [measured(command, out) for _ in range(ROUNDS)]
        for clock, seconds in zip(("wall", "CPU"), zip(*rounds, strict=True), strict=True):
            record(Row("peers", f"ingest, {clock} seconds", peer, "cpu", "slice", SLICES, list(seconds)))
