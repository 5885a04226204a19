"""Stored values to HU: the rescale's rounding, clamping, padding, signs, unused bits; and every transfer syntax."""

from __future__ import annotations

import base64
import os
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("pydicom")

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from decoding import decoded
from dicom_files import ct, enhanced, save, stored_slice
from lim_gpu.ingest.pixels import missing_decoder, open_pixels
from lim_gpu.ingest.records import Found, PixelFormat, SourceError, StoredPixels
from lim_gpu.ingest.syntaxes import plugins

LOSSLESS = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
]
# (arange(48 * 40) * 7 % 4096) as 48 x 40, encoded once with OpenJPH: no dependency can encode it
HTJ2K_STREAM = base64.b64decode(
    "/0//UQApQAAAAAAoAAAAMAAAAAAAAAAAAAAAKAAAADAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQ"
    "kJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAt8AAf+TwAArAB30E/da+av3AoG0AMAAE0AAE0AAEwDm"
    "5QEDdADGOQKBdACA/gIHdADAABVwAAWtAABVgAMERSgSGwP8Y5UAUgISoaRXAA3jKD6ZcZccS8ylAPm4AIlYuFx58QX8Q5UAwAAXRwAA"
    "XbQAAXQAQCD13gceEaENVsDg+ycAnRIFACClVf6GZwxdFAT6AHwjnAB+02/4BgGEBgmIgxeMAxdEAwb0EQ70Ezb8cw8GJg8GxgEGRgA6"
    "hgFC5wBZ4Md0RzjeUoDPXQCAgildwBtH+CPhITTACAAQWEMOb/2Aoft3BIX+yEObAMAAF1kAAF9BQAAXQO7HvXHofnNweOP+xu8H/HB3"
    "48DdEfd/+e3OACNdOOU4EDtPTLTjAA/jwnQB/u1f/3qvfx/Asf3bjTzE/3zvf/7bP/7xj3/8Yx//OAP/ed//cb/f5LH94z/c4z384z/6"
    "x3/4x3/0j/9wH/9Rf6gD/ygd+Ed14B/qwD+qA/9QDvyjOvAPdeAoM8DdFc7wBwzOcDnzOcDm3AA4pnOBTpnMATdS1rOMKZzAS5ZjAeyz"
    "Ah9+v+GH/33r+4cPH/94D/74+Z0BQ6AYbiiFxmGA/j8AwAAuwgABfYUAALRAJEn+h/8S/0kk+f9/JEn6J/0zYPD8fLbiwCDmMkFy09OU"
    "5Ajp6enGP6nMO6enQnwB/3//f/9//3//f/9//3//f/9/f/yHf/8H/u//ft//fb//e3//d/9+3/997/98/37/f/9//3//f/9//3//f/9/"
    "/3/3f/97v/993/9+73//e7//fd//fu9//3t//3m//zuRi1zkIhe5yEUucpGLXOQiF7nIRS5yERdxERf5/2OawCWWWWWWWWV0xwPecxgP"
    "fsxgPfsxgPfsxgPZZjAb95jAb95jAb95zAb95jAb6wAAYwG/eY4G+mYwHv2YwHv2YwHstwT/f/9/9/9vwaUAYCmAcKO8AP/Z"
)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name[:40])
def test_a_lossless_syntax_gives_the_stored_values(tmp_path, syntax, signed):
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        pytest.importorskip("gdcm")
    stored = stored_slice(3, (41, 37), signed)
    path = save(ct(stored, rescale=(2, -24)), tmp_path / "a.dcm", syntax)
    result = decoded(path)
    np.testing.assert_array_equal(result.pixels, stored.astype(int) * 2 - 24)
    assert result.pixels.dtype == np.int16


def test_near_lossless_jpeg_ls_and_jpeg_baseline(tmp_path):
    grey = (stored_slice(3, signed=False) >> 4).astype(np.uint8)
    path = save(ct(grey), tmp_path / "jpeg.dcm", JPEGBaseline8Bit)
    assert np.abs(decoded(path).pixels - grey.astype(int)).max() < 40
    np.testing.assert_array_equal(decoded(path).pixels, pixel_array(path))
    save(ct(stored_slice(3, signed=False)), tmp_path / "near.dcm", JPEGLSNearLossless, jls_error=3)
    assert 0 < np.abs(decoded(tmp_path / "near.dcm").pixels - stored_slice(3, signed=False).astype(int)).max() <= 3


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K], ids=lambda syntax: syntax.name[-30:])
def test_high_throughput_jpeg_2000(tmp_path, syntax):
    expected = (np.arange(48 * 40) * 7 % 4096).reshape(48, 40).astype(np.uint16)
    dataset = ct(expected, BitsStored=12, HighBit=11)
    dataset.PixelData = encapsulate([HTJ2K_STREAM])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(decoded(tmp_path / "a.dcm").pixels, expected)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_files_of_others_equal_pydicom_outside_the_padding(name):
    path = get_testdata_file(name)
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array.astype(float)
    expected = np.rint(stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
    expected[stored == -2000] = -1024
    result = decoded(Path(path))
    np.testing.assert_array_equal(result.pixels, expected)
    assert result.counts["padding"] == np.count_nonzero(stored == -2000)


def test_another_decoder_is_tried_where_the_first_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such thing")

    stored = stored_slice(3)
    path = save(ct(stored), tmp_path / "a.dcm", JPEG2000Lossless)
    decoder = get_decoder(JPEG2000Lossless)
    assert plugins(JPEG2000Lossless, 16) == ["pylibjpeg", "pillow"]
    monkeypatch.setitem(decoder._available, "pylibjpeg", fail)
    np.testing.assert_array_equal(decoded(path).pixels, stored)
    monkeypatch.setitem(decoder._available, "pillow", fail)
    with pytest.raises(SourceError, match="pixels cannot be decoded: .*no such thing"):
        decoded(path)


def test_an_unknown_syntax_is_refused_without_its_text():
    with pytest.raises(SourceError, match="unsupported transfer syntax: unknown"):
        missing_decoder(UID("1.2.3.4"), 16)
    with pytest.raises(SourceError, match=r"unsupported transfer syntax: MPEG2"):
        missing_decoder(UID("1.2.840.10008.1.2.4.100"), 8)


decimals = st.decimals(min_value="-8", max_value="8", places=4).filter(lambda d: d != 0)


@given(
    slope=decimals,
    intercept=st.decimals(min_value=-3000, max_value=3000, places=2),
    values=st.lists(st.integers(-32768, 32767).filter(lambda v: v != -2000), min_size=1, max_size=30),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hu_are_the_exact_rescale_rounded_and_clamped(tmp_path, slope, intercept, values):
    stored = np.array([values], dtype=np.int16)
    path = save(ct(stored, rescale=(str(slope), str(intercept))), tmp_path / "a.dcm")
    result = decoded(path)
    clamped = 0
    for stored_value, hu in zip(values, result.pixels[0].tolist(), strict=True):
        exact = stored_value * slope + intercept
        rounded = int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))
        inside = min(max(rounded, -32768), 32767)
        clamped += rounded != inside
        near_half = abs(abs(exact - exact.to_integral_value(rounding="ROUND_FLOOR")) - Decimal("0.5")) < Decimal("1e-6")
        assert hu == inside or (near_half and abs(hu - inside) == 1)
    assert result.counts["clamped"] == clamped


def test_halves_go_to_the_even_number(tmp_path):
    stored = np.arange(-5, 6, dtype=np.int16)[None]
    path = save(ct(stored, rescale=("0.5", 0)), tmp_path / "a.dcm")
    assert decoded(path).pixels.tolist() == [[-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]]


def test_unsigned_values_beyond_int16_are_clamped_not_wrapped(tmp_path):
    stored = np.array([[0, 1024, 40000, 65535]], dtype=np.uint16)
    result = decoded(save(ct(stored, rescale=(1, -1024)), tmp_path / "a.dcm"))
    assert result.pixels.tolist() == [[-1024, 0, 32767, 32767]]
    assert result.counts["clamped"] == 2


def test_32_bit_values(tmp_path):
    stored = np.array([[-70000, 5, 70000]], dtype=np.int32)
    assert decoded(save(ct(stored), tmp_path / "a.dcm")).pixels.tolist() == [[-32768, 5, 32767]]


def test_unused_bits_of_signed_values_are_sign_extended(tmp_path):
    stored = np.array([[0x0830, 0x0FFF, 0x0001]], dtype=np.uint16).view(np.int16)  # 12-bit -2000, -1, 1
    path = save(ct(stored, BitsStored=12, HighBit=11), tmp_path / "a.dcm")
    assert decoded(path).pixels.tolist() == [[-1024, -1, 1]]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 15])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_bits_above_bits_stored_count_in_no_syntax(tmp_path, syntax, bits, signed):
    rng = np.random.default_rng(bits)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    expected = rng.integers(low, high, (33, 45))
    expected[expected == -2000] = 5  # it would be padding
    above = rng.integers(0, 1 << 16 - bits, (33, 45)) << bits  # overlays, or signs that are not extended
    stored = ((expected & (1 << bits) - 1) | above).astype(np.uint16)
    stored[stored == 0xF830] ^= 0x8000  # so would -2000 as a pattern of 16 bits
    dataset = ct(stored.view(np.int16) if signed else stored)
    path = save(dataset, tmp_path / "a.dcm", syntax, bits)
    np.testing.assert_array_equal(decoded(path).pixels, expected)


def test_a_lossy_stream_may_overshoot_a_little_and_no_more(tmp_path):
    sharp = np.kron([[0, 4300], [4300, 0]], np.ones((40, 40))).astype(np.uint16)
    near = save(ct(sharp), tmp_path / "near", JPEGLSNearLossless, bits=12, jls_error=2)
    assert np.abs(decoded(near).pixels - sharp.astype(int)).max() <= 2
    far = save(ct(sharp * 2), tmp_path / "far", JPEGLSNearLossless, bits=12, jls_error=2)
    with pytest.raises(SourceError, match=r"pixels contradict the header: 0\.\.\d+ with 12 bits stored"):
        decoded(far)


def test_monochrome1_keeps_its_hu(tmp_path):
    stored = stored_slice(5)
    path = save(ct(stored, PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm")
    np.testing.assert_array_equal(decoded(path).pixels, stored)


def test_other_modalities_keep_stored_values(tmp_path):
    stored = np.array([[-2000, 3]], dtype=np.int16)
    path = save(ct(stored, Modality="MR", rescale=(3, 7)), tmp_path / "mr")
    assert decoded(path).pixels.tolist() == [[-2000, 3]]
    grey = np.array([[0, 255]], dtype=np.uint8)
    result = decoded(save(ct(grey, Modality="US", rescale=None), tmp_path / "us"))
    assert result.pixels.dtype == np.uint8


def test_assume_hu_only_where_nothing_is_said(tmp_path):
    bare = save(ct(stored_slice(1), rescale=None), tmp_path / "bare")
    np.testing.assert_array_equal(decoded(bare, assume_hu=True).pixels, stored_slice(1))
    half = save(ct(stored_slice(1), RescaleIntercept=None), tmp_path / "half")
    with pytest.raises(SourceError, match="no RescaleIntercept"):
        decoded(half, assume_hu=True)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_have_their_own_rescale_and_come_in_any_order(tmp_path, syntax):
    stored = np.stack([stored_slice(i) for i in range(3)])
    dataset = enhanced(stored, z=[0, 3, 6], rescale=[(1, 0), (2, -10), (3, 5)])
    path = save(dataset, tmp_path / "a.dcm", syntax)
    for index, (slope, intercept) in reversed(list(enumerate([(1, 0), (2, -10), (3, 5)]))):
        np.testing.assert_array_equal(decoded(path, index).pixels, stored[index].astype(int) * slope + intercept)


@pytest.mark.parametrize("assume_hu", [False, True])
def test_a_rescale_at_the_top_level_of_an_enhanced_object_counts(tmp_path, assume_hu):
    stored = np.stack([stored_slice(i) for i in range(3)])
    dataset = enhanced(stored, z=[0, 3, 6], rescale=[(1, 0)] * 3)
    for frame in dataset.PerFrameFunctionalGroupsSequence[:2]:
        del frame.PixelValueTransformationSequence
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 2, -1024, "HU"
    path = save(dataset, tmp_path / "a.dcm")
    for index, (slope, intercept) in enumerate([(2, -1024), (2, -1024), (1, 0)]):  # a frame's own comes first
        result = decoded(path, index, assume_hu)
        np.testing.assert_array_equal(result.pixels, stored[index].astype(int) * slope + intercept)


def test_a_file_that_has_changed_since_its_header_was_read_is_refused(tmp_path):
    path = save(ct(stored_slice(16)), tmp_path / "a")
    status = path.stat()
    found = Found(str(path), path.name, 0, status.st_size, status.st_mtime_ns)
    how = PixelFormat(str(ExplicitVRLittleEndian), 1, 16, 16, 16, 16, True, "MONOCHROME2", "OW", "CT", ())
    with open_pixels(found, StoredPixels(status.st_size - 512, 512, how)) as opened:
        assert opened.stored_values(0).shape == (16, 16)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with (
        pytest.raises(SourceError, match="changed while it was read: run the command again"),
        open_pixels(found, StoredPixels(status.st_size - 512, 512, how)),
    ):
        pass
