"""NIfTI files with faults: each is named, and none gives wrong pixels."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("nibabel")


from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.ingest.nifti import nifti_slices
from lim_gpu.ingest.records import SourceError
from nifti_files import patch, read, scanned, voxels, write

PATCHES = {
    "4-D": (None, "4-D NIfTI: dimensions"),
    "dim 0": ((42, struct.pack("<h", 0)), "damaged NIfTI header: dimensions [0, 5, 4]"),
    "dim negative": ((42, struct.pack("<h", -6)), "damaged NIfTI header: dimensions"),
    "dim count": ((40, struct.pack("<h", 9)), "damaged NIfTI header: dimensions"),
    "1-D": ((40, struct.pack("<h", 1)), "1-D NIfTI"),
    "70 TB": ((42, struct.pack("<3h", 32767, 32767, 32767)), "NIfTI size: 592 bytes where the header says 703"),
    "wrong size": ((42, struct.pack("<h", 7)), "NIfTI size: 592 bytes where the header says 632"),
    "vox_offset later": ((108, struct.pack("<f", 368)), "NIfTI size: 592 bytes where the header says 608"),
    "vox_offset early": ((108, struct.pack("<f", 340)), "damaged NIfTI header: vox_offset 340"),
    "vox_offset nan": ((108, struct.pack("<f", float("nan"))), "damaged NIfTI header"),
    "vox_offset odd": ((108, struct.pack("<f", 352.5)), "damaged NIfTI header: vox_offset 352.5"),
    "type unknown": ((70, struct.pack("<h", 9999)), "damaged NIfTI header"),
    "complex": ((70, struct.pack("<h", 32)), "unsupported NIfTI data type: code 32"),
    "rgb": ((70, struct.pack("<h", 128)), "unsupported NIfTI data type: code 128"),
    "inter nan": ((112, struct.pack("<ff", 1, float("nan"))), "damaged NIfTI header: HeaderDataError"),
    "pair": ((344, b"ni1\0"), "not NIfTI: no single-file NIfTI. Join .hdr and .img"),
    "magic": ((344, b"xxx\0"), "not NIfTI"),
    "size field": ((0, struct.pack("<i", 77)), "not NIfTI"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_fault_of_the_header_is_named(tmp_path, name):
    change, cause = PATCHES[name]
    path = write(tmp_path / "a.nii", voxels((6, 5, 4, 2)) if change is None else voxels())
    if change is not None:
        patch(path, *change)
    result = scanned(path)
    assert isinstance(result, SourceError)
    assert str(result).startswith(cause)


@pytest.mark.parametrize("size", [0, 10, 347, 352, 591])
def test_a_cut_file_is_named(tmp_path, size):
    path = write(tmp_path / "a.nii", voxels())
    path.write_bytes(path.read_bytes()[:size])
    assert isinstance(scanned(path), SourceError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_count(tmp_path, value):
    data = voxels(dtype=np.float32)
    data[0, 0, 0] = data[5, 4, 3] = value
    with pytest.raises(SourceError, match="NaN or infinity: 2 voxels"):
        read(write(tmp_path / "a.nii", data))


def test_values_that_whole_numbers_would_lose_are_refused(tmp_path):
    data = np.linspace(0, 1, 120, dtype=np.float32).reshape(6, 5, 4)
    with pytest.raises(SourceError, match="values too fine: 0 to 1"):
        read(write(tmp_path / "a.nii", data))
    read(write(tmp_path / "b.nii", np.rint(data)))  # a mask is whole
    read(write(tmp_path / "c.nii", data * 1000))  # HU with fractions are rounded


def test_a_damaged_gz_never_gives_pixels(tmp_path):
    data = write(tmp_path / "a.nii.gz", voxels((20, 15, 10))).read_bytes()
    whole = read(tmp_path / "a.nii.gz")[0]
    rng = np.random.default_rng(0)
    path = tmp_path / "b.nii.gz"
    name_ends = data.index(0, 10) if data[3] & 8 else 9  # of the header of gzip: what a bit changes there is unseen
    for _ in range(150):
        changed, at = bytearray(data), int(rng.integers(10, len(data)))
        cut = rng.random() > 0.8
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(data[:at] if cut else changed)
        try:
            volume = scanned(path)
            if isinstance(volume, SourceError):
                raise volume
            assert np.array_equal(np.stack([s.pixels for s in nifti_slices(volume, tmp_path)]), whole)
        except SourceError:
            continue
        assert not cut
        assert at <= name_ends or at == len(data) - 9  # the last byte of deflate has bits that mean nothing


def test_a_gz_bomb_stops_at_the_size_that_the_header_says(tmp_path):
    plain = write(tmp_path / "a.nii", voxels()).read_bytes()
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(plain)
        for _ in range(64):
            stream.write(bytes(2**20))
    volume = scanned(path)
    with pytest.raises(SourceError, match="NIfTI size: more than the 592 bytes"):
        list(nifti_slices(volume, tmp_path))


def test_nothing_but_bad_files_is_one_line(tmp_path):
    write(tmp_path / "in" / "a.nii", voxels((3, 3, 3, 2)))
    with pytest.raises(InputError, match=r"in: no volume in it \(1 failed\). Look at the errors above$"):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
