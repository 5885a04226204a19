"""NIfTI: axes as displayed, against nibabel's closest canonical; scaling; damaged, hostile and unusual files."""

from __future__ import annotations

import gzip
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

from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.ingest.geometry import place
from lim_gpu.ingest.nifti import nifti_plan, nifti_slices, read_nifti
from lim_gpu.ingest.records import Counted, NiftiVolume, SourceError
from lim_gpu.ingest.scan import scan_files, walk

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


def patch(path: Path, at: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)


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


def test_a_label_map_is_counted(tmp_path):
    path = write(tmp_path / "a.nii", voxels(dtype=np.uint8))
    patch(path, 68, struct.pack("<h", 1002))
    assert scanned(path) == Counted("NIfTI label map")


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


def test_nothing_but_bad_files_is_one_line(tmp_path):
    write(tmp_path / "in" / "a.nii", voxels((3, 3, 3, 2)))
    with pytest.raises(InputError, match=r"in: no volume in it \(1 failed\)$"):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
