"""The walk over a header finds what pydicom finds, or leaves the file to it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom.data
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_files import ENCODINGS, ct, enhanced, save, series, stored_slice
from lim_gpu.ingest import opening
from lim_gpu.ingest.dicom import read_instance
from lim_gpu.ingest.elements import ELEMENTS, walk
from lim_gpu.ingest.records import Found, SourceError
from lim_gpu.ingest.splits import SPLITS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the damaged files are meant
OTHERS = (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PLAIN = [syntax for syntax in ENCODINGS if syntax not in OTHERS]
DAMAGED = 300


def read(path: Path):
    status = path.stat()
    return read_instance(Found(str(path), path.name, 0, status.st_size, status.st_mtime_ns), "any", assume_hu=True)


def read_both_ways(path, monkeypatch):
    ours = read(path)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "walk", lambda _head: None)
        return repr(ours), repr(read(path))


def of_head(path):
    return walk(path.read_bytes()[: opening.HEAD])


def with_sequences(undefined, depth=3):
    """A CT slice that refers to others, items within items; of declared length or not."""
    dataset = ct(stored_slice(0))
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        inner.is_undefined_length_sequence_item = undefined
        outer = Dataset()
        outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
        outer["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
        outer.ReferencedSOPInstanceUID = "1.2"
        inner = outer
    dataset.ReferencedImageSequence = Sequence([inner])
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    return dataset


def test_the_table_is_that_of_the_standard():
    for keyword, (tag, vr) in ELEMENTS.items():
        assert tag == tag_for_keyword(keyword)
        assert dictionary_VR(tag) == (vr or "US or SS")
    assert {split.name for split in SPLITS} <= set(ELEMENTS)


@pytest.mark.parametrize("syntax", ENCODINGS, ids=lambda syntax: syntax.name[:30])
def test_plain_files_are_walked_and_the_others_left_to_pydicom(tmp_path, monkeypatch, syntax):
    path = save(ct(stored_slice(0)), tmp_path / "a.dcm", syntax)
    assert (of_head(path) is not None) == (syntax in PLAIN)
    ours, theirs = read_both_ways(path, monkeypatch)
    assert ours == theirs
    assert not isinstance(read(path), SourceError)


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name[:30])
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_are_passed_over(tmp_path, monkeypatch, syntax, undefined):
    path = save(with_sequences(undefined), tmp_path / "a.dcm", syntax)
    assert (of_head(path) is not None) == (not undefined or syntax != ImplicitVRLittleEndian)
    ours, theirs = read_both_ways(path, monkeypatch)
    assert ours == theirs
    assert not isinstance(read(path), SourceError)


def test_sequences_nested_beyond_measure_are_an_error(tmp_path):
    path = save(ct(stored_slice(0)), tmp_path / "a.dcm")
    data, at = path.read_bytes(), of_head(path).end
    nested = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 2000
    path.write_bytes(data[:at] + b"\x50\x00\x00\x10" + nested[4:] + data[at:])
    error = read(path)
    assert isinstance(error, SourceError)
    assert "sequences are nested too deeply" in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": "M\u00fcller", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientID": "a~b", "SpecificCharacterSet": "ISO_IR 13"},
        {"PatientID": "\u5c71\u7530", "SpecificCharacterSet": ["", "ISO 2022 IR 87"]},
        {"PatientID": "", "RescaleType": "", "InstanceNumber": None},
        {"PixelPaddingValue": -2000},
        {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 5},
        {"ConvolutionKernel": ["Bl57f", "2"], "EchoNumbers": [1, 2]},
        {"SliceThickness": "1.", "PixelSpacing": ["+.5", "5e-1"]},
        {"ImageType": ["original", "primary"], "AcquisitionNumber": "007"},
        {"DiffusionBValue": 1000.0, "StackID": "1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("syntax", PLAIN[:2], ids=lambda syntax: syntax.name[:8])
def test_values_are_those_that_pydicom_gives(tmp_path, monkeypatch, changes, syntax):
    signed = changes.get("PixelPaddingValue", -1) < 0
    path = save(ct(stored_slice(0, signed=signed), **changes), tmp_path / "a.dcm", syntax)
    ours, theirs = read_both_ways(path, monkeypatch)
    assert ours == theirs


def test_files_of_others_are_read_alike(monkeypatch):
    paths = [path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file()]
    assert sum(of_head(path) is not None for path in paths) > 10
    for path in paths:
        ours, theirs = read_both_ways(path, monkeypatch)
        assert ours == theirs, path.name


def test_damaged_headers_are_read_alike(tmp_path, monkeypatch):
    rng = random.Random(0)
    frames = np.stack([stored_slice(i) for i in range(3)])
    seeds = [save(with_sequences(undefined=True), tmp_path / "sequences.dcm")]
    seeds += [save(enhanced(frames, z=[0, 3, 6]), tmp_path / "enhanced.dcm")]
    seeds += [save(ct(stored_slice(0)), tmp_path / f"{number}.dcm", syntax) for number, syntax in enumerate(PLAIN)]
    walked = 0
    for _ in range(DAMAGED):
        path = rng.choice(seeds)
        damaged = tmp_path / "damaged"
        damaged.write_bytes(damage(path.read_bytes(), of_head(path).end + 12, rng))
        walked += of_head(damaged) is not None
        ours, theirs = read_both_ways(damaged, monkeypatch)
        passed_over = path == seeds[0] and theirs.startswith("SourceError('damaged header")  # pydicom parses them all
        assert ours == theirs or passed_over
    assert walked > DAMAGED / 10


def damage(data: bytes, end: int, rng: random.Random) -> bytes:
    at, kind = rng.randrange(128, end), rng.randrange(5)
    if kind < 2:
        return data[:at] + bytes([rng.choice([0, 1, 2, 32, 65, 92, 255, rng.randrange(256)])]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[at + rng.choice([1, 2, 8, 12]) :]
    if kind == 3:
        return data[:at] + rng.choice([b"UI", b"SQ", b"UN", b"OB", b"\xfe\xff"]) + data[at + 2 :]
    return data[: rng.randrange(128, len(data))]


def test_plain_uncompressed_files_need_no_pydicom(tmp_path):
    series(tmp_path / "in", 3)
    program = f"""
import os, sys
from lim_gpu.ingest.dicom import read_instance
from lim_gpu.ingest.pixels import decode, open_pixels
from lim_gpu.ingest.records import Found
for entry in os.scandir({str(tmp_path / "in")!r}):
    found = Found(entry.path, entry.name, 0, entry.stat().st_size, entry.stat().st_mtime_ns)
    (frame,) = read_instance(found, "CT", False)
    with open_pixels(found, frame.instance.pixels) as pixels:
        print(decode(pixels, 0, frame.rescale).pixels.shape)
assert "pydicom" not in sys.modules
"""
    shapes = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert shapes.splitlines() == ["(40, 36)"] * 3
