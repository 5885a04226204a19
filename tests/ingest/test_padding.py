"""Padding of DICOM images: what becomes air, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("pydicom")

from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from decoding import decoded
from dicom_files import ct, save, stored_slice

PADDING = [
    # stored, pixel padding value, range limit, HU with intercept -24
    ([-2000, 0, -1000], None, None, [-1024, -24, -1024]),
    ([-2000, -3000, 7], -3000, None, [-1024, -1024, -17]),
    ([-3024, -2000, 7], -2000, None, [-3048, -1024, -17]),  # a real file: -3024 beside a padding tag of -2000
    ([-32768, -30000, -2999, 5], -32768, -3000, [-1024, -1024, -3023, -19]),
    ([-32768, -30000, -2999, 5], -3000, -32768, [-1024, -1024, -3023, -19]),
    ([0, 1, 2], 0, None, [-1024, -23, -22]),
]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("values", "padding", "limit", "expected"), PADDING)
def test_padding_becomes_air(tmp_path, values, padding, limit, expected, syntax):
    dataset = ct(np.array([values], dtype=np.int16), rescale=(1, -24))
    if padding is not None:
        dataset.PixelPaddingValue = padding
        dataset["PixelPaddingValue"].VR = "SS"
    if limit is not None:
        dataset.PixelPaddingRangeLimit = limit
        dataset["PixelPaddingRangeLimit"].VR = "SS"
    result = decoded(save(dataset, tmp_path / "a.dcm", syntax))
    assert result.pixels[0].tolist() == expected
    padded = sum(new == -1024 and old != -1000 for old, new in zip(values, expected, strict=True))
    assert result.counts["padding"] == padded


@pytest.mark.parametrize(
    ("hu", "wide", "said"),
    [(-3024, 6, True), (-1025, 6, True), (-3024, 1, False), (-1024, 6, False), (-2000, 6, False)],  # -2000 is padding
)
def test_much_padding_that_no_tag_names_is_said(tmp_path, run, hu, wide, said):
    """A real file: -3024 beside a padding tag of -2000. It is kept as it is, which the grey range follows."""
    for i in range(3):
        stored = stored_slice(i, (40, 60))
        stored[:6, :wide] = hu
        dataset = ct(stored, z=3.0 * i, number=i, PixelPaddingValue=-2000)
        dataset["PixelPaddingValue"].VR = "SS"
        save(dataset, tmp_path / "in" / str(i))
    result = run()
    below = {"below_air": {"hu": hu, "pixels": 3 * 36, "share": 36 / 2400}}
    assert result.only.header.defects == (below if said else {})
    texts = [text for _, text in result.report.defects]
    assert bool(texts) == said
    assert not said or texts[0].startswith(f"1.5 % of the pixels hold {hu} HU")


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_padding_of_an_unsigned_image_is_compared_as_a_bit_pattern(tmp_path, vr):
    dataset = ct(np.array([[63536, 24, 1024]], dtype=np.uint16), rescale=(1, -1024))
    dataset.PixelPaddingValue = 63536 if vr == "US" else -2000
    dataset["PixelPaddingValue"].VR = vr
    result = decoded(save(dataset, tmp_path / "a.dcm"))
    assert result.pixels.tolist() == [[-1024, -1000, 0]]
    assert result.counts["padding"] == 1


def test_padding_above_the_stored_bits_is_still_padding(tmp_path):
    stored = np.array([[0xF830, 0xF000 | 1024, 1024]], dtype=np.uint16)  # -2000, garbage above 12 bits, clean
    path = save(ct(stored, rescale=(1, -1024), BitsStored=12, HighBit=11), tmp_path / "a.dcm")
    assert decoded(path).pixels.tolist() == [[-1024, 0, 0]]


def test_8_bit_ct_has_no_untagged_padding(tmp_path):
    assert (-2000 & 0xFF) == 48
    stored = np.array([[48, 49]], dtype=np.uint8)
    assert decoded(save(ct(stored), tmp_path / "a.dcm")).pixels.tolist() == [[48, 49]]


def test_padding_after_the_pixels_is_allowed_up_to_a_frame(tmp_path):
    stored = stored_slice(1)
    dataset = ct(stored)
    dataset.PixelData += bytes(200)
    np.testing.assert_array_equal(decoded(save(dataset, tmp_path / "a.dcm")).pixels, stored)
