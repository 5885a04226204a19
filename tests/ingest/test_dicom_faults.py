"""One tree with a series for every fault: each bad one is named once with its cause, the good one is taken."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from dicom_files import ct, enhanced, item, save, series, stored_slice
from lim_gpu.ingest import ingest
from lim_gpu.ingest.dicom import MOSAIC
from lim_gpu.ingest.opening import open_dicom
from lim_gpu.ingest.part10 import fragments
from lim_gpu.ingest.scan import scan_files, walk

STORED = stored_slice(1)


def changed(**elements):
    return lambda path: save(ct(STORED, series=path.name, **elements), path)


def cut(keep, syntax=ExplicitVRLittleEndian):
    """The file without its end: `keep` bytes, or all but -keep."""

    def make(path):
        save(ct(STORED, series=path.name), path, syntax)
        path.write_bytes(path.read_bytes()[:keep])

    return make


def nested(depth):
    def make(path):
        inner = item(PatientID="x")
        for _ in range(depth):
            outer = item(ReferencedStudySequence=[inner])
            outer["ReferencedStudySequence"].is_undefined_length = True
            inner = outer
        dataset = ct(STORED, series=path.name)
        save(dataset, path)
        head, tail = path.read_bytes().split(struct.pack("<HH", 0x0008, 0x0060), 1)
        deep = b"".join(b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(depth))
        path.write_bytes(head + deep + struct.pack("<HH", 0x0008, 0x0060) + tail)

    return make


def deflate_bomb(path):
    save(ct(STORED, series=path.name), path, DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    body = zlib.decompress(data[start:], -15) + bytes(65 * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(data[:start] + packer.compress(body) + packer.flush())


def enhanced_without_groups(path):
    dataset = enhanced(np.stack([STORED] * 3), z=[0, 1, 2], series=path.name)
    del dataset.PerFrameFunctionalGroupsSequence
    save(dataset, path)


def broken_codestream(syntax):
    def make(path):
        save(ct(STORED, series=path.name), path, syntax)
        with open_dicom(str(path)) as file:
            start = fragments(file.stream, file.pixels.start)[0][0]
        data = bytearray(path.read_bytes())
        data[start : start + 64] = b"\7" * 64
        path.write_bytes(data)

    return make


def meta_without_syntax(path):
    save(ct(STORED, series=path.name), path)
    data = path.read_bytes()
    at = data.index(b"\x02\x00\x10\x00UI")
    length = 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    size = int.from_bytes(data[140:144], "little") - length
    path.write_bytes(data[:140] + struct.pack("<L", size) + data[144:at] + data[at + length :])


def without_header(path):
    """The elements alone, as old scanners and some network tools store them."""
    data = save(ct(STORED, series=path.name), path, ImplicitVRLittleEndian).read_bytes()
    path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])


RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pixels-one-byte-short": (cut(-1), "truncated: 2879 of 2880 bytes of pixels"),
    "pixels-half": (cut(-1440), "truncated: 1440 of 2880 bytes of pixels"),
    "compressed-one-byte-short": (cut(-1, JPEGLSLossless), "truncated: the compressed pixel data end too early"),
    "compressed-half": (cut(-900, JPEG2000Lossless), "truncated: the compressed pixel data end too early"),
    "deflated-short": (cut(-50, DeflatedExplicitVRLittleEndian), "truncated: the deflated data end too early"),
    "preamble-only": (cut(132), "no Modality"),
    "meta-only": (cut(300), "no Modality"),
    "cut-before-pixels": (cut(-2892), "no PixelData"),
    "no-modality": (changed(Modality=None), "no Modality"),
    "modality-is-text": (changed(Modality="Anna\x1b[31m"), "unusable Modality: not a code"),
    "no-series": (changed(SeriesInstanceUID=None), "no SeriesInstanceUID"),
    "no-syntax": (meta_without_syntax, "no TransferSyntaxUID"),
    "no-header.dcm": (without_header, "no Part 10 header: it holds DICOM elements alone. Rewrite it"),
    "no-rows": (changed(Rows=None), "no Rows"),
    "no-columns": (changed(Columns=None), "no Columns"),
    "no-bits-allocated": (changed(BitsAllocated=None), "no BitsAllocated"),
    "no-bits-stored": (changed(BitsStored=None), "no BitsStored"),
    "no-sign": (changed(PixelRepresentation=None), "no PixelRepresentation"),
    "no-photometric": (changed(PhotometricInterpretation=None), "no PhotometricInterpretation"),
    "no-samples": (changed(SamplesPerPixel=None), "no SamplesPerPixel"),
    "no-pixels": (changed(PixelData=None), "no PixelData"),
    "modality-lut": (changed(rescale=None, ModalityLUTSequence=[item(LUTDescriptor=[2, 0, 16])]), "Modality LUT: its"),
    "slope-missing": (changed(rescale=None), "no RescaleSlope: the HU are unknown. --assume-hu"),
    "intercept-missing": (changed(RescaleIntercept=None), "no RescaleIntercept"),
    "slope-nan": (changed(rescale=("NaN", 0)), "unusable RescaleSlope: not a finite number"),
    "slope-inf": (changed(rescale=("inf", 0)), "unusable RescaleSlope: not a finite number"),
    "slope-huge": (changed(rescale=("1e400", 0)), "unusable RescaleSlope: not a finite number"),
    "slope-zero": (changed(rescale=(0, 0)), "unusable RescaleSlope: it is 0"),
    "slope-two": (changed(rescale=([1, 2], 0)), "unusable RescaleSlope: 2 values where 1 belong"),
    "slope-empty": (changed(rescale=("", 0)), "no RescaleSlope"),
    "intercept-nan": (changed(rescale=(1, "nan")), "unusable RescaleIntercept: not a finite number"),
    "8-of-16-bits": (changed(BitsAllocated=8, BitsStored=8, HighBit=7), "pixels contradict the header: 2880 bytes"),
    "32-of-16-bits": (changed(BitsAllocated=32, BitsStored=32, HighBit=31), "truncated: 2880 of 5760 bytes"),
    "12-bits-allocated": (changed(BitsAllocated=12, BitsStored=12, HighBit=11), "unusable BitsAllocated: 12 of 12"),
    "high-bit": (changed(BitsStored=12, HighBit=15), "unusable HighBit: 15 with 12 bits stored"),
    "sign-2": (changed(PixelRepresentation=2), "unusable PixelRepresentation"),
    "rgb": (changed(**RGB), "not a grey image: RGB"),
    "palette": (changed(PhotometricInterpretation="PALETTE COLOR"), "not a grey image: PALETTE COLOR"),
    "too-large": (changed(Rows=65535, Columns=65535), "impossible size: 1 frames of 65535 x 65535"),
    "too-many-frames": (changed(NumberOfFrames=10**9), "impossible size: 1000000000 frames"),
    "no-frame": (changed(NumberOfFrames=0), "impossible size: 0 frames"),
    "rows-zero": (changed(Rows=0), "impossible size: 1 frames of 0 x 36"),
    "enhanced-without-groups": (enhanced_without_groups, "no functional groups: 3 frames"),
    "orientation-skew": (changed(orientation=(1, 0, 0, 1, 0, 0)), "unusable ImageOrientationPatient"),
    "orientation-nan": (changed(orientation=("nan", 0, 0, 0, 1, 0)), "unusable ImageOrientationPatient: not a finite"),
    "position-two": (changed(position=(1, 2)), "unusable ImagePositionPatient: 2 values where 3 belong"),
    "nested": (nested(1000), "damaged header: sequences are nested too deeply"),
    "deflate-bomb": (deflate_bomb, "deflated data too large: more than 64 MiB"),
    "j2k-broken": (broken_codestream(JPEG2000Lossless), "pixels cannot be decoded: "),
    "jls-broken": (broken_codestream(JPEGLSLossless), "pixels cannot be decoded: "),
    "rle-broken": (broken_codestream(RLELossless), "pixels cannot be decoded: "),
}
COUNTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "mr": (changed(Modality="MR"), "MR"),
    "seg": (changed(Modality="SEG"), "SEG"),
    "sr": (changed(Modality="SR", PixelData=None, Rows=None), "SR"),
    "rtstruct": (changed(Modality="RTSTRUCT", PixelData=None), "RTSTRUCT"),
    "localizer": (changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "mip": (changed(ImageType=["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]), "projection or screen"),
    "screen": (changed(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], **RGB), "projection or screen"),
    "mpr": (changed(ImageType=["DERIVED", "SECONDARY", "MPR"], orientation=(1, 0, 0, 0, 0, -1)), "reformation"),
    "slab-mip": (changed(ImageType=["DERIVED", "SECONDARY", "AXIAL", "SLABMIP"]), "projection or screen"),
    "dose": (changed(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"], **RGB), "projection or screen"),
    "mosaic": (changed(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), MOSAIC),
    "secondary-capture": (
        changed(SOPClassUID=SecondaryCaptureImageStorage, orientation=None, **RGB),
        "secondary capture",
    ),
    "text.dcm": (lambda path: path.write_text("no image"), "named .dcm but not DICOM"),
    "empty": (lambda path: path.write_bytes(b""), "not an image"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)), "not an image"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "in").mkdir()
    for name, (make, _) in {**FAULTS, **COUNTED}.items():
        make(folder / "in" / name)
    series(folder / "in" / "good", 3)
    return folder, ingest([folder / "in"], folder / "out", workers=2)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_once_with_its_cause(tree, name):
    folder, report = tree
    lines = [str(failure) for failure in report.failures if failure.path == str(folder / "in" / name)]
    assert len(lines) == 1
    assert lines[0].startswith(f"{folder / 'in' / name}: {FAULTS[name][1]}")
    assert "\n" not in lines[0]


def test_the_rest_goes_on_and_nothing_else_is_named(tree):
    folder, report = tree
    assert report.written == 1
    assert report.slices == 3
    assert {Path(failure.path).name for failure in report.failures} == set(FAULTS)
    assert list((folder / "out" / "volumes").glob("*.tmp")) == []


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_no_input_is_counted_by_kind(tree, name):
    _, report = tree
    kind = COUNTED[name][1]
    assert report.counted[kind] == sum(kind == other for _, other in COUNTED.values())
    assert COUNTED[Path(report.examples[kind]).name][1] == kind


def scan_one(path, **options):
    (found,) = walk([path], leave_out=[]).files
    return scan_files([found], **({"modality": "CT", "assume_hu": False} | options))[0].content


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
def test_a_file_cut_anywhere_is_an_error_and_never_passed_by(tmp_path, syntax):
    data = save(ct(STORED), tmp_path / "whole.dcm", syntax).read_bytes()
    path = tmp_path / "cut.dcm"
    for end in [*range(132, min(len(data), 1400), 16), *range(1400, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:end])
        content = scan_one(path)
        assert "Error" in repr(content), (end, content)


def test_dicomdir_is_counted(tmp_path):
    dataset = ct(STORED)
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.SOPClassUID = "1.2.840.10008.1.3.10"
    assert scan_one(save(dataset, tmp_path / "DICOMDIR")).kind == "DICOMDIR"


def test_any_modality_takes_images_and_still_no_segmentations(tmp_path):
    mr = save(ct(STORED, Modality="MR", rescale=None), tmp_path / "mr")
    seg = save(ct(STORED, Modality="SEG"), tmp_path / "seg")
    assert scan_one(mr, modality="any")[0].instance.pixels.format.modality == "MR"
    assert scan_one(seg, modality="any").kind == "SEG"
    assert scan_one(mr, modality="MR")[0].instance.pixels.format.modality == "MR"


@pytest.mark.parametrize(
    "value", ["LOWDOSE", "DOSE_RED", "LOW_DOSE", "SSDE", "LUNG_SCREENING", "CT_SOM5 SSDE", "MIPOR", "REFORMATTED"]
)
def test_a_derived_axial_stack_is_kept_whatever_its_values_contain(tmp_path, value):
    path = save(ct(STORED, ImageType=["DERIVED", "PRIMARY", "AXIAL", value]), tmp_path / "a")
    assert scan_one(path)[0].instance.derived


def test_an_enhanced_object_may_keep_the_word_mosaic(tmp_path):
    """XA30 writes it on what it has split into frames (dcm2niix#553)."""
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}
    assert len(scan_one(save(enhanced(np.stack([STORED] * 3), z=[0, 3, 6], **kind), tmp_path / "a"))) == 3
    assert scan_one(save(ct(STORED, **kind), tmp_path / "b")).kind == MOSAIC


def test_assume_hu_overrides_no_modality_lut(tmp_path):
    path = save(ct(STORED, rescale=None, ModalityLUTSequence=[item(LUTDescriptor=[2, 0, 16])]), tmp_path / "a")
    assert str(scan_one(path, assume_hu=True).error).startswith("Modality LUT")


def test_a_header_error_repeats_no_value_of_a_tag(tmp_path):
    path = save(ct(STORED, NumberOfFrames=1), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x001 ", b"IS\x02\x00Q!"))
    assert str(scan_one(path).error) == "unusable NumberOfFrames: not a number"


def test_elements_that_only_describe_may_be_wrong(tmp_path):
    path = save(ct(STORED, number=3, SliceThickness="NaN"), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x00Q!"))
    (frame,) = scan_one(path)
    assert (frame.instance.number, frame.thickness) == (None, None)
