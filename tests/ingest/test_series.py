"""DICOM files to volumes: told apart, ordered by position, duplicates resolved, geometry described."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from pydicom.data import get_testdata_file
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_files import AXIAL, ct, enhanced, save, series, stored_slice
from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.store.private import read_sources


def test_order_is_that_of_the_positions_whatever_the_names(tmp_path, run):
    names = [f"{i}.dcm" for i in range(7)]
    random.Random(3).shuffle(names)
    stored = series(tmp_path / "in", 7, names=names, number=None)
    volume = run().only
    np.testing.assert_array_equal(volume.read(), stored)
    np.testing.assert_allclose(volume.z, np.arange(7) * 3.0)
    header = volume.header
    assert header.spacing == (3.0, 0.8, 0.7)
    assert (header.orientation, header.modality, header.unit, header.source) == ("axial", "CT", "HU", "dicom")
    np.testing.assert_allclose(
        header.affine, [[0.7, 0, 0, -100], [0, 0.8, 0, -120], [0, 0, 3, 0], [0, 0, 0, 1]], atol=1e-12
    )
    assert header.defects == {}
    assert [row["path"] for row in read_sources(run().store.path, volume.key)] == [
        str(tmp_path / "in" / name) for name in names
    ]


@pytest.mark.parametrize(
    ("orientation", "along", "plane"),
    [
        (AXIAL, (0, 0, 1), "axial"),
        ((-1, 0, 0, 0, 1, 0), (0, 0, -1), "axial"),  # prone, or feet first
        ((1, 0, 0, 0, 0, -1), (0, 1, 0), "coronal"),
        ((0, 1, 0, 0, 0, -1), (-1, 0, 0), "sagittal"),
        ((math.sqrt(0.5), math.sqrt(0.5), 0, 0, 0, -1), (-math.sqrt(0.5), math.sqrt(0.5), 0), "oblique"),
    ],
)
def test_slices_ascend_along_row_cross_column(tmp_path, run, orientation, along, plane):
    stored = [stored_slice(i) for i in range(4)]
    for i, pixels in enumerate(stored):
        position = [10 + 2.5 * i * component for component in along]
        save(ct(pixels, orientation=orientation, position=position, number=9 - i), tmp_path / "in" / f"{9 - i}")
    volume = run().only
    np.testing.assert_array_equal(volume.read(), stored)
    np.testing.assert_allclose(np.diff(volume.z), 2.5, atol=1e-6)
    assert volume.header.orientation == plane
    affine = np.array(volume.header.affine)
    np.testing.assert_allclose(affine @ [0, 0, 3, 1], [*(10 + 7.5 * np.array(along)), 1], atol=1e-5)


def test_series_in_one_folder_are_told_apart(tmp_path, run):
    """By UID, and within one UID by matrix, pixel spacing, orientation and whether the images are derived."""
    changes = {
        "plain": {},
        "other series": {"series": "b"},
        "other matrix": {"shape": (40, 38)},
        "other spacing": {"spacing": (0.8, 0.75)},
        "other patient": {"patient": "somebody else"},
        "derived": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    }
    expected = {}
    for number, (name, options) in enumerate(changes.items()):
        shape = options.get("shape", (40, 36))
        names = [f"{number}-{i}" for i in range(3)]
        others = {key: value for key, value in options.items() if key != "shape"}
        if name == "coronal":
            for i in range(3):
                position = (0, 5.0 * i, 0)
                save(ct(stored_slice(i + 1), position=position, **others), tmp_path / "in" / names[i])
            expected[name] = [stored_slice(i + 1) for i in range(3)]
        else:
            expected[name] = series(tmp_path / "in", 3, names=names, shape=shape, **others)
    result = run()
    assert len(result.volumes) == len(changes)
    for volume, (name, stored) in zip(result.volumes, expected.items(), strict=True):  # natural order of the names
        np.testing.assert_array_equal(volume.read(), stored, err_msg=name)
    assert len({volume.entry.patient for volume in result.volumes}) == 2
    assert [volume.header.defects for volume in result.volumes if volume.header.defects] == [{"derived": True}]


def test_geometry_that_differs_by_rounding_is_one_volume(tmp_path, run):
    for i in range(4):
        tiny = 4e-4 * (i % 2)
        orientation = (1, tiny, 0, -tiny, 1, 0)
        spacing = (0.703125, 0.703125) if i % 2 else (0.7031, 0.7031)
        save(ct(stored_slice(i), z=3.0 * i, orientation=orientation, spacing=spacing), tmp_path / "in" / str(i))
    assert run().only.entry.shape[0] == 4


def test_a_series_over_two_folders_is_one_volume(tmp_path, run):
    series(tmp_path / "in", 4, names=["a/1", "b/1", "a/2", "b/2"])
    assert run().only.entry.shape[0] == 4


@pytest.mark.parametrize(
    ("thicknesses", "gaps"),
    [
        ([4] * 9 + [7] * 5, []),
        ([4] * 5 + [7] * 9, []),
        ([7] * 6 + [4] * 6, []),
        ([4] * 6 + [7] * 6 + [None] + [7] * 2, [[11, 14.0]]),  # a slice is missing
        ([3] * 4 + [None] + [3] * 4, [[3, 6.0]]),
    ],
)
def test_a_variable_thickness_is_no_gap(tmp_path, run, thicknesses, gaps):
    z = 0.0
    for i, thickness in enumerate(thicknesses):
        if thickness is not None:
            save(ct(stored_slice(i), z=z, number=i, SliceThickness=thickness), tmp_path / "in" / str(i))
        z += thickness or thicknesses[i - 1]
    assert run().only.header.defects.get("gaps", []) == gaps


def test_patients_are_told_apart_by_the_whole_value(tmp_path, run):
    for number, patient in enumerate(["SITE\\1", "SITE\\2", "SITE\\1"]):
        series(tmp_path / "in" / str(number), 2, series=f"s{number}", patient=patient)
    first, second, third = (volume.entry.patient for volume in run().volumes)
    assert first == third != second


def test_gaps_and_uneven_spacing_are_recorded(tmp_path, run):
    for i, z in enumerate([0, 3, 6, 15, 18, 21.2, 24.2]):
        save(ct(stored_slice(i), z=z, number=i), tmp_path / "in" / str(i))
    result = run()
    assert result.only.header.defects == {"gaps": [[2, 9.0]], "uneven_spacing": {"min": 3.0, "max": 3.2}}
    assert [text for _, text in result.report.defects] == [
        "slices are missing, gaps: 1, the widest 9 mm",
        "uneven spacing, 3 to 3.2 mm",
    ]
    assert result.only.header.spacing[0] == 3.0


def test_rounded_positions_are_even(tmp_path, run):
    for i in range(6):
        save(ct(stored_slice(i), z=round(0.625 * i, 2)), tmp_path / "in" / str(i))
    assert run().only.header.defects == {}


def test_gantry_tilt_is_measured_and_the_order_follows_the_normal(tmp_path, run):
    angle = math.radians(25.8)
    orientation = (1, 0, 0, 0, math.cos(angle), -math.sin(angle))
    for i in range(5):
        position = (-100, -120, 3.0 * i)  # the table moves along z, the plane is tilted
        save(ct(stored_slice(i), position=position, orientation=orientation), tmp_path / "in" / str(9 - i))
    header = run().only.header
    assert header.defects == {"gantry_tilt": pytest.approx(25.8, abs=0.01)}
    assert header.spacing[0] == pytest.approx(3 * math.cos(angle), abs=1e-5)
    np.testing.assert_allclose(np.array(header.affine)[:3, 2], [0, 0, 3], atol=1e-5)
    np.testing.assert_array_equal(run().only.read(), [stored_slice(i) for i in range(5)])


def test_without_any_position_the_instance_number_orders(tmp_path, run):
    stored = series(tmp_path / "in", 5, orientation=None)
    result = run()
    np.testing.assert_array_equal(result.only.read(), stored[::-1])  # `series` numbers against the positions
    assert result.only.header.defects == {"no_position": True}
    assert (result.only.header.spacing, result.only.header.affine) == (None, None)
    assert result.only.z.tolist() == [0, 1, 2, 3, 4]


def test_without_position_and_number_the_order_is_unknown(tmp_path):
    series(tmp_path / "in", 3, orientation=None, number=None)
    with pytest.raises(InputError):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    good = save(ct(stored_slice(1), series="good"), tmp_path / "good")
    report = ingest([tmp_path / "in", good], tmp_path / "out", workers=1)
    assert [failure.cause for failure in report.failures] == [
        "order unknown: slices without a position share an InstanceNumber or have none (3 slices)"
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_one_slice_without_a_position_fails_its_volume_or_is_skipped(tmp_path, run, skip):
    stored = series(tmp_path / "in" / "bad", 4)
    save(ct(stored_slice(9), orientation=None, number=9), tmp_path / "in" / "bad" / "lost.dcm")
    series(tmp_path / "in" / "good", 2, series="good")
    result = run(skip_bad_slices=skip)
    (failure,) = result.report.failures
    assert failure.path.endswith("lost.dcm")
    note = ", skipped" if skip else "; --skip-bad-slices takes the volume without"
    assert failure.cause == f"no ImagePositionPatient: other slices of the series have one (1 bad of 5 files{note})"
    assert len(result.volumes) == 1 + skip
    if skip:
        np.testing.assert_array_equal(result.volumes[0].read(), stored)
        lost = [{"cause": "no ImagePositionPatient", "count": 1}]
        assert result.volumes[0].header.defects == {"skipped_slices": lost}


@pytest.mark.parametrize("when", ["header", "pixels"])
def test_skipping_bad_slices_records_the_loss_and_the_gap(tmp_path, run, when):
    stored = series(tmp_path / "in", 6, syntax=RLELossless)
    path = tmp_path / "in" / "slice3.dcm"  # the fourth from the feet
    data = path.read_bytes()
    path.write_bytes(data[:-9] if when == "header" else data[:-1200] + b"\x07" * 1192 + data[-8:])
    with pytest.raises(InputError):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    for _ in range(2):  # the second finds the volume and says the same
        result = run(skip_bad_slices=True)
        np.testing.assert_array_equal(result.only.read(), [*stored[:3], *stored[4:]])
        defects = result.only.header.defects
        cause = "truncated" if when == "header" else "pixels cannot be decoded"
        assert defects == {"gaps": [[2, 6.0]], "skipped_slices": [{"cause": cause, "count": 1}]}
        assert len(result.report.failures) == 1
        assert result.report.failures[0].cause.startswith(cause)
        assert (result.report.slices, len(read_sources(result.store.path, result.only.key))) == (5, 5)
    assert result.report.unchanged


def test_marks_of_the_header_become_defects(tmp_path, run):
    save(ct(stored_slice(1), BurnedInAnnotation="YES", RescaleType="MGML"), tmp_path / "in" / "a")
    assert run().only.header.defects == {"burned_in": True, "not_hu": True}


def test_assume_hu_is_recorded(tmp_path, run):
    save(ct(stored_slice(1), rescale=None), tmp_path / "in" / "a")
    header = run(assume_hu=True).only.header
    assert header.defects == {"assumed_hu": True}


def test_one_slice_is_a_volume(tmp_path, run):
    save(ct(stored_slice(1), PhotometricInterpretation="MONOCHROME1"), tmp_path / "in" / "a")
    header = run().only.header
    assert header.shape == (1, 40, 36)
    assert header.spacing == (3.0, 0.8, 0.7)  # SliceThickness
    assert header.photometric == "MONOCHROME1"
    assert header.transfer_syntax == "Explicit VR Little Endian"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_an_enhanced_object_is_a_volume_by_the_positions_of_its_frames(tmp_path, run, syntax):
    stored = np.stack([stored_slice(i) for i in range(4)])
    z = [9.0, 0.0, 6.0, 3.0]
    rescale = [(1, 0), (2, -10), (1, 5), (3, 0)]
    save(enhanced(stored, z=z, rescale=rescale), tmp_path / "in" / "a.dcm", syntax)
    volume = run().only
    order = np.argsort(z)
    np.testing.assert_array_equal(volume.read(), [stored[i].astype(int) * rescale[i][0] + rescale[i][1] for i in order])
    assert volume.header.spacing == (3.0, 0.8, 0.7)
    assert [row["frame"] for row in read_sources(run().store.path, volume.key)] == order.tolist()


def without_a_decoder(path, **options):
    """A slice in 12-bit JPEG, which nothing that is installed here decodes."""
    dataset = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    damaged = ct(np.zeros((dataset.Rows, dataset.Columns), np.int16), **options)
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
        damaged[keyword] = dataset[keyword]
    damaged.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, damaged, enforce_file_format=True)
    return dataset.Rows, dataset.Columns


REMEDY = "pip install pylibjpeg pylibjpeg-libjpeg (GPL-3)"
NO_DECODER = f"no decoder for JPEG Extended (Process 2 and 4) ({{}} files). {REMEDY}"


def test_a_missing_decoder_is_named_once_for_all_files(tmp_path, run):
    for i in range(3):
        without_a_decoder(tmp_path / "in" / f"{i}.dcm", z=3.0 * i, number=i)
    series(tmp_path / "in" / "good", 2, series="good")
    (failure,) = run().report.failures
    assert failure.cause == NO_DECODER.format(3)


def test_slices_that_have_a_decoder_go_on_without_the_others(tmp_path, run):
    shape = without_a_decoder(tmp_path / "in" / "9.dcm", z=6.0, number=9)
    stored = [stored_slice(i, shape) for i in range(2)]
    for i, pixels in enumerate(stored):
        save(ct(pixels, z=3.0 * i, number=i), tmp_path / "in" / f"{i}.dcm")
    series(tmp_path / "in" / "good", 2, series="good")
    assert len(run().volumes) == 1
    result = run(output=tmp_path / "skipping", skip_bad_slices=True)
    np.testing.assert_array_equal(result.volumes[0].read(), stored)
    assert result.volumes[0].header.defects == {"skipped_slices": [{"cause": "no decoder", "count": 1}]}
    assert [failure.cause for failure in result.report.failures] == [NO_DECODER.format(1)]
