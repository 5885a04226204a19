"""NIfTI: axes as displayed, against nibabel's closest canonical; scaling; damaged, hostile and unusual files."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("nibabel")

import nibabel as nib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lim_gpu.ingest.geometry import place
from lim_gpu.ingest.records import Counted
from lim_gpu.ingest.scan import scan_files, walk
from nifti_files import RAS, patch, read, scanned, voxels, write


def as_displayed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """nibabel's own reading: slices to superior, rows to posterior, columns to left; affine to LPS."""
    image = nib.as_closest_canonical(nib.load(path))  # RAS
    data = np.asarray(image.dataobj)[::-1, ::-1, :].transpose(2, 1, 0)
    flip = np.eye(4)
    flip[0, 0] = flip[1, 1] = -1
    flip[:2, 3] = np.array(image.shape[:2]) - 1
    return data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine @ flip


def affine_of(plan) -> np.ndarray:
    return np.array(place(plan.plane, [s.position for s in plan.slices]).affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_all_48_orientations(tmp_path, axes, suffix):
    for signs in itertools.product([1, -1], repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = np.diag(np.array(signs) * [0.7, 0.8, 3.0])[list(axes)]
        affine[:3, 3] = [10, -20, 30]
        path = write(tmp_path / f"a{suffix}", voxels(), affine)
        pixels, plan, _ = read(path)
        expected, expected_affine = as_displayed(path)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_allclose(affine_of(plan), expected_affine, atol=1e-4)


@given(
    rotation=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    sizes=st.tuples(*[st.floats(0.3, 5)] * 3),
    flip=st.sampled_from([1, -1]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_oblique_volumes_equal_nibabel(tmp_path, rotation, sizes, flip):
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*rotation) @ np.diag(sizes) @ np.diag([flip, 1, 1])
    path = write(tmp_path / "a.nii", voxels(), affine)
    pixels, plan, _ = read(path)
    expected, expected_affine = as_displayed(path)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_allclose(affine_of(plan), expected_affine, atol=1e-3)
    assert (np.diff(place(plan.plane, [s.position for s in plan.slices]).z) > 0).all()


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f4", "<f8", ">u2", "<i4", ">u4", "<i8", "i1"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_types_and_byte_orders(tmp_path, dtype, kind):
    data = np.random.default_rng(1).integers(0, 120, (6, 5, 4)).astype(dtype)
    header = kind.header_class(endianness=dtype[0] if dtype[0] in "<>" else "<")
    path = write(tmp_path / "a.nii", data, RAS, header, kind)
    pixels, _, clamped = read(path)
    np.testing.assert_array_equal(pixels, as_displayed(path)[0])
    assert (pixels.dtype, clamped) == (np.int16, 0)


def test_scaling_rounds_half_to_even_and_clamps(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.array([-5, -3, -1, 1, 3, 5, 32767], np.int16).reshape(7, 1, 1), RAS, header)
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[352:] = np.array([-5, -3, -1, 1, 3, 5, 32767], "<i2").tobytes()  # as stored, whatever nibabel made of it
    data[112:120] = struct.pack("<ff", 0.5, 0)
    (tmp_path / "a.nii").write_bytes(data)
    pixels, _, _ = read(tmp_path / "a.nii")
    assert pixels[0, 0, ::-1].tolist() == [-2, -2, 0, 0, 2, 2, 16384]
    data[112:120] = struct.pack("<ff", 2, 0)
    (tmp_path / "a.nii").write_bytes(data)
    pixels, _, clamped = read(tmp_path / "a.nii")
    assert (pixels.max(), clamped) == (32767, 1)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_that_is_none_means_no_scaling(tmp_path, slope):
    path = write(tmp_path / "a.nii", voxels())
    patch(path, 112, struct.pack("<ff", slope, 5))
    np.testing.assert_array_equal(read(path)[0], voxels()[::-1, ::-1].transpose(2, 1, 0))


def test_8_bit_volumes_enter_as_they_are(tmp_path):
    pixels, plan, _ = read(write(tmp_path / "a.nii", voxels(dtype=np.uint8)))
    assert (pixels.dtype, plan.unit) == (np.uint8, "8-bit")


def test_without_orientation_nibabels_convention_holds_and_it_is_recorded(tmp_path):
    image = nib.Nifti1Image(voxels(), None)
    image.header["pixdim"][1:4] = [0.7, 0.8, 3]
    nib.save(image, tmp_path / "a.nii")
    pixels, plan, _ = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(pixels, as_displayed(tmp_path / "a.nii")[0])
    assert plan.defects == {"no_affine": True}
    assert place(plan.plane, [s.position for s in plan.slices]).spacing is None


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_an_unusable_affine_is_recorded(tmp_path, bad):
    path = write(tmp_path / "a.nii", voxels())
    patch(path, 280, struct.pack("<4f", bad, 0, 0, 0))
    _, plan, _ = read(path)
    assert plan.defects == {"no_affine": True}


def test_two_dimensions_are_one_slice_and_trailing_ones_are_nothing(tmp_path):
    assert read(write(tmp_path / "a.nii", voxels((6, 5))))[0].shape == (1, 5, 6)
    assert read(write(tmp_path / "b.nii", voxels((6, 5, 4, 1, 1))))[0].shape == (4, 5, 6)


def test_a_label_map_is_counted(tmp_path):
    path = write(tmp_path / "a.nii", voxels(dtype=np.uint8))
    patch(path, 68, struct.pack("<h", 1002))
    assert scanned(path) == Counted("NIfTI label map")


def test_through_the_store(tmp_path, run):
    for name in ("scan10.nii.gz", "scan2.nii", "deeper/scan2.nii.gz"):
        write(tmp_path / "in" / name, voxels(seed=len(name)))
    (tmp_path / "in" / "empty.nii").write_bytes(b"")
    (tmp_path / "in" / "short.nii.gz").write_bytes(zlib.compress(b"no gzip"))
    result = run(keep_identifiers=True)
    assert [volume.entry.name for volume in result.volumes] == ["in/deeper/scan2", "in/scan2", "in/scan10"]
    header = result.volumes[0].header
    assert (header.source, header.modality, header.unit, header.orientation) == ("nifti", "CT", "HU", "axial")
    assert header.spacing == pytest.approx((3.0, 0.8, 0.7), abs=1e-6)
    np.testing.assert_array_equal(result.volumes[2].read(), as_displayed(tmp_path / "in" / "scan10.nii.gz")[0])
    assert sorted(Path(failure.path).name for failure in result.report.failures) == ["empty.nii", "short.nii.gz"]
    assert list((tmp_path / "out" / "volumes").iterdir()) == list((tmp_path / "out" / "volumes").glob("*.h5"))


def test_much_padding_is_said_of_hu_and_of_no_stored_values(tmp_path, run):
    data = voxels((20, 10, 4))
    data[:3, :, 1:] = -3024
    write(tmp_path / "in" / "a.nii.gz", data)
    below = {"hu": -3024, "pixels": 90, "share": 90 / 800}
    assert run().only.header.defects == {"below_air": below}
    assert run(output=tmp_path / "mr", modality="MR").only.header.defects == {}


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_lengths_become_millimetres(tmp_path, unit, factor):
    header = nib.Nifti1Header()
    header.set_xyzt_units(unit, "sec")
    affine = np.diag([*(np.diag(RAS)[:3] / factor), 1])
    affine[:3, 3] = np.array([10, -20, 30]) / factor
    path = write(tmp_path / "a.nii", voxels(), affine, header)
    _, plan, _ = read(path)
    _, expected = as_displayed(path)
    expected[:3] *= factor
    np.testing.assert_allclose(affine_of(plan), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage])
def test_a_pair_of_files_is_named_and_no_other_hdr(tmp_path, kind):
    nib.save(kind(voxels(), np.diag([1, 1, 1, 1])), tmp_path / "a.hdr")
    (tmp_path / "b.hdr").write_bytes(b"#?RADIANCE" + bytes(400))
    found = {file.found.name: file.content for file in scan_files(walk([tmp_path], leave_out=[]).files, "CT", False)}
    assert "Join .hdr and .img to a .nii" in str(found[f"{tmp_path.name}/a.hdr"])
    assert found[f"{tmp_path.name}/b.hdr"] == Counted("not an image")


def test_the_patient_is_taken_from_the_name(tmp_path, run):
    for name in ("p1_a", "p1_b", "p2_a", "other"):
        write(tmp_path / "in" / f"{name}.nii", voxels())
    result = run(patient_pattern=r"(p\d+)_")
    patients = [volume.entry.patient for volume in result.volumes]
    assert [patients[0] == patients[1], patients[0] == patients[2]] == [True, False]
    (failure,) = result.report.failures
    assert failure.path.endswith("other.nii")
    assert failure.cause == "no patient in the name: --patient-pattern does not match. Change the pattern"
