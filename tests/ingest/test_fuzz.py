"""Randomly damaged files: no traceback, no wrong pixels where a checksum exists, every file accounted for."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

import nibabel as nib
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from dicom_files import ct, enhanced, save, stored_slice, uid
from lim_gpu.ingest import ingest
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore

FILES = 300
VOXELS = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5)).astype(np.int16)
GREY = np.random.default_rng(1).integers(0, 256, (23, 21)).astype(np.uint8)


def seeds(folder: Path) -> list[Path]:
    paths = []
    for number, syntax in enumerate(
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless]
    ):
        paths.append(save(ct(stored_slice(number)), folder / f"{number}.dcm", syntax))
    frames = np.stack([stored_slice(i) for i in range(3)])
    paths.append(save(enhanced(frames, z=[0, 3, 6]), folder / "enhanced.dcm"))
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), folder / "plain.nii")
    (folder / "packed.nii.gz").write_bytes(gzip.compress((folder / "plain.nii").read_bytes(), mtime=0))
    Image.fromarray(GREY).save(folder / "grey.png")
    Image.fromarray(GREY.astype(np.uint16) * 200).save(folder / "deep.png")
    return [*paths, *(folder / name for name in ("plain.nii", "packed.nii.gz", "grey.png", "deep.png"))]


def damaged(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(min(len(result), 1500) if rng.random() < 0.6 else len(result))
        count = rng.randrange(1, 20)
        kind = rng.randrange(6)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at : at + count] = bytes(count)
        elif kind == 2:
            result[at : at + count] = b"\xff" * count
        elif kind == 3:
            result[at:at] = rng.randbytes(count)
        elif kind == 4:
            del result[at : at + count]
        else:
            del result[max(at, 1) :]
    return bytes(result)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    rng = random.Random(20)
    originals = seeds(folder / "seeds")
    for number in range(FILES):
        original = rng.choice(originals)
        own_series = uid(f"series {number}").ljust(64)[: len(uid("series"))].encode()
        data = damaged(original.read_bytes(), rng).replace(uid("series").encode(), own_series)
        path = folder / "in" / f"{number:03d}" / original.name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return folder, ingest([folder / "in"], folder / "out", workers=2)


def test_no_error_is_a_traceback(outcome):
    _, report = outcome
    assert report.failures
    for failure in report.failures:
        assert "\n" not in str(failure)
        assert not any(word in failure.cause for word in ("Traceback", "crashed", "took too long", "NameError"))


def test_every_file_is_a_volume_a_failure_or_counted(outcome):
    folder, report = outcome
    named = {failure.path for failure in report.failures}
    with SliceStore(folder / "out") as store:
        used = {row["path"] for entry in store.volumes for row in read_sources(store.path, entry.key)}
    rest = [path for path in (folder / "in").rglob("*.*") if str(path) not in named | used]
    assert not named & used
    assert len(rest) == sum(report.counted.values())
    for path in rest:
        assert path.read_bytes()[128:132] != b"DICM", path


def test_pixels_with_a_checksum_are_right_and_shapes_are_those_of_the_header(outcome):
    folder, _ = outcome
    checked = 0
    with SliceStore(folder / "out") as store:
        for volume in store:
            path = Path(read_sources(store.path, volume.key)[0]["path"])
            if path.name == "packed.nii.gz":
                np.testing.assert_array_equal(volume.read(), VOXELS[::-1, ::-1].transpose(2, 1, 0))
            elif path.name == "grey.png":
                np.testing.assert_array_equal(volume.read()[0], GREY)
            elif path.name == "deep.png":
                np.testing.assert_array_equal(volume.read()[0].astype(int) + 32768, GREY.astype(int) * 200)
            elif path.suffix == ".dcm":
                header = pydicom.dcmread(path, stop_before_pixels=True)
                assert volume.entry.shape[1:] == (header.Rows, header.Columns)
            checked += 1
    assert checked > 10
