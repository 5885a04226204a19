"""Real CT, against plain readings with pydicom and nibabel; skipped where the data are not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

import nibabel as nib
import pydicom

pytestmark = pytest.mark.real


def test_a_ge_series_equals_pydicom_in_order_of_position(real_ct, run):
    datasets = [pydicom.dcmread(path) for path in (real_ct / "headneck-ge").iterdir()]
    datasets.sort(key=lambda dataset: dataset.ImagePositionPatient[2])
    result = run(real_ct, workers=2)
    volume = result.only
    assert (len(datasets), result.report.counted) == (135, {"SEG": 1})
    for i, dataset in enumerate(datasets):
        np.testing.assert_array_equal(volume.read_slice(i), dataset.pixel_array)  # slope 1, intercept 0
    np.testing.assert_allclose(volume.z, [dataset.ImagePositionPatient[2] for dataset in datasets])
    header = volume.header
    assert header.transfer_syntax == "JPEG-LS Lossless Image Compression"
    assert header.spacing == pytest.approx((3.27, 0.976562, 0.976562))
    # the padding tag says -2000, but outside the field of view the file holds -3024: kept as it is, and said
    outside = np.count_nonzero(volume.read() == -3024)
    below = {"hu": -3024, "pixels": outside, "share": outside / (135 * 512 * 512)}
    assert (header.defects, header.clamped) == ({"below_air": below}, 0)
    assert "21.6 % of the pixels hold -3024 HU" in result.report.defects[0][1]
    assert header.padding == 0
    assert [int(volume.read_slice(i).min()) for i in range(135)] == [-3024] * 135
    assert (volume.read() == -3024).mean() == pytest.approx(0.216, abs=0.001)


def test_nifti_volumes_equal_nibabel_as_displayed(nifti_folder, run):
    paths = sorted(nifti_folder.glob("*.nii.gz"))
    result = run(*paths)
    for path, volume in zip(paths, result.volumes, strict=True):
        canonical = nib.as_closest_canonical(nib.load(path))
        expected = np.rint(np.asarray(canonical.dataobj))[::-1, ::-1].transpose(2, 1, 0)
        np.testing.assert_array_equal(volume.read(), expected)
        assert volume.header.spacing == pytest.approx(canonical.header.get_zooms()[::-1])
