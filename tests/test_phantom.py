"""The procedural CT: seeded, with the values and the redundancy of CT, in files that other libraries read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lim_gpu.phantom import DATA_SET, phantom, write_data_set


@pytest.mark.parametrize("kind", ["chest", "abdomen", "head"])
def test_a_phantom_is_seeded_and_looks_like_ct(kind):
    volume = phantom(kind, 6, 64, 80, seed=1)
    assert volume.shape == (6, 64, 80)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume, phantom(kind, 6, 64, 80, seed=1))
    assert (volume != phantom(kind, 6, 64, 80, seed=2)).mean() > 0.5
    assert volume.min() == -1024  # padding outside the field of view
    assert (volume > 300).any()  # bone
    assert ((volume > 0) & (volume < 100)).mean() > 0.1  # soft tissue


def test_neighbouring_slices_are_more_alike_than_distant_ones():
    volume = phantom("chest", 30, 96, 96, seed=0).astype(float)
    near = [np.corrcoef(volume[i].ravel(), volume[i + 1].ravel())[0, 1] for i in range(29)]
    far = [np.corrcoef(volume[i].ravel(), volume[i + 15].ravel())[0, 1] for i in range(15)]
    assert np.mean(near) > np.mean(far) + 0.02


def test_the_data_set_is_read_by_other_libraries_and_written_once(tmp_path):
    pydicom, nibabel = pytest.importorskip("pydicom"), pytest.importorskip("nibabel")
    write_data_set(tmp_path, seed=0)
    dicoms = sorted(
        (tmp_path / "chest-a").glob("*.dcm"), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2])
    )
    first = phantom("chest", DATA_SET[0].slices, DATA_SET[0].height, DATA_SET[0].width, seed=0)
    for path, expected in list(zip(dicoms, first, strict=True))[::13]:
        ds = pydicom.dcmread(path)
        np.testing.assert_array_equal(ds.pixel_array.astype(int) * ds.RescaleSlope + ds.RescaleIntercept, expected)
    assert [p.name for p in dicoms] != sorted(p.name for p in dicoms)
    head = nibabel.load(tmp_path / "head.nii.gz")
    assert nibabel.aff2axcodes(head.affine) == ("R", "A", "S")
    png = Image.open(tmp_path / "chest-b" / "chest-b_0.png")
    assert png.mode == "L"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_data_set(tmp_path, seed=0)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
