"""PNG and JPEG: their pixels by mode and depth, upright, and what is never decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lim_gpu.errors import InputError
from lim_gpu.pictures import TURNS, decode_picture

ORIENTATION = 0x0112


def grey(seed=0, shape=(13, 11)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


# JPEG of quality 100 takes whole coefficients: 64 errors of at most a half, so at most sqrt(64 / 4) in a pixel; and
# transform and colours are rounded.
LOSS_OF_JPEG_100 = 4 + 1


def write(path: Path, pixels, kind="PNG", **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, kind, **options)
    return path


def turned(number):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def test_equal_channels_are_grey_and_colour_becomes_luminance(tmp_path):
    pixels = grey()
    same = np.stack([pixels] * 3, axis=-1)
    colour = np.stack([pixels, grey(1), grey(2)], axis=-1)
    opaque = np.full((*pixels.shape, 1), 255, np.uint8)
    cases = {
        "rgb": (same, pixels, {}),
        "rgba": (np.concatenate([same, opaque], axis=-1), pixels, {}),
        "colour": (colour, np.asarray(Image.fromarray(colour).convert("L")), {"colour": 1}),
        "transparent": (np.concatenate([same, opaque // 2], axis=-1), pixels, {"transparent": 1}),
        "palette": (Image.fromarray(pixels).convert("P"), pixels, {}),
        "bits": (Image.fromarray(pixels > 99), (pixels > 99) * np.uint8(255), {}),
        "grey and alpha": (Image.fromarray(same).convert("LA"), pixels, {}),
    }
    for name, (image, expected, done) in cases.items():
        decoded, counts = decode_picture(write(tmp_path / f"{name}.png", image))
        np.testing.assert_array_equal(decoded, expected, err_msg=name)
        assert decoded.dtype == np.uint8
        assert {kind: n for kind, n in counts.items() if n} == done, name


def test_colour_where_it_is_asked_for(tmp_path):
    colour = np.stack([grey(), grey(1), grey(2)], axis=-1)
    decoded, counts = decode_picture(write(tmp_path / "colour.png", colour), colour=True)
    np.testing.assert_array_equal(decoded, colour)
    assert not counts
    same, _ = decode_picture(write(tmp_path / "same.png", np.stack([grey()] * 3, axis=-1)), colour=True)
    np.testing.assert_array_equal(same, grey())


@pytest.mark.parametrize("values", [[0, 1, 65535], [31768, 32768, 34268], [7, 7, 7]])
def test_16_bit_loses_nothing(tmp_path, values):
    decoded, counts = decode_picture(write(tmp_path / "deep.png", np.array([values], np.uint16)))
    assert decoded.dtype == np.int16
    assert (decoded.astype(int) + 32768).tolist() == [values]
    assert not counts


IMAGES = {
    "grey": grey(),
    "colour": np.stack([grey(), grey(1), grey(2)], axis=-1),
    "16 bit": grey().astype(np.uint16) * 257,
    "bits": grey() > 99,
}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_upright_as_pillow_turns_it(tmp_path, name, number):
    path = write(tmp_path / "a.png", IMAGES[name], exif=turned(number))
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    expected, _ = decode_picture(write(tmp_path / "b.png", upright, exif=b""))
    found, _ = decode_picture(path)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == ((13, 11) if number < 5 else (11, 13))


def test_jpegs_are_turned_too(tmp_path):
    smooth = np.add.outer(np.arange(16) * 8, np.arange(24) * 4).astype(np.uint8)
    for number, turn in TURNS.items():
        found, _ = decode_picture(write(tmp_path / "a.jpg", smooth, "JPEG", quality=100, exif=turned(number)))
        expected = np.asarray(Image.fromarray(smooth).transpose(turn))
        assert np.abs(found.astype(int) - expected).max() <= LOSS_OF_JPEG_100


@pytest.mark.parametrize("exif", [turned(0), turned(9), b"Exif\0\0no tags at all", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_tag_turns_nothing(tmp_path, exif):
    for kind in ("PNG", "JPEG"):
        assert decode_picture(write(tmp_path / "a", grey(), kind, exif=exif))[0].shape == (13, 11)


def test_the_content_decides_not_the_name(tmp_path):
    pixels = np.tile(np.arange(16, dtype=np.uint8) * 16, (16, 1))
    found, _ = decode_picture(write(tmp_path / "a.png", pixels, "JPEG", quality=100))
    assert np.abs(found.astype(int) - pixels).max() <= LOSS_OF_JPEG_100


@pytest.mark.parametrize("kind", ["EPS", "BMP", "GIF", "TIFF", "PPM"])
def test_no_other_decoder_is_ever_used(tmp_path, kind):
    with pytest.raises(InputError, match="^neither PNG nor JPEG inside$"):
        decode_picture(write(tmp_path / "a.png", grey(), kind))


def test_reasons_hold_no_path(tmp_path):
    data = write(tmp_path / "a.png", grey()).read_bytes()
    for size in (0, 4, 20, 40, 90):
        (tmp_path / "cut.png").write_bytes(data[:size])
        with pytest.raises(InputError) as error:
            decode_picture(tmp_path / "cut.png")
        assert str(error.value)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(InputError, match="^No such file or directory$"):
        decode_picture(tmp_path / "none.png")


def test_a_wrong_checksum_is_seen_though_the_pixels_decode(tmp_path):
    data = bytearray(write(tmp_path / "a.png", grey()).read_bytes())
    length = struct.unpack(">L", data[33:37])[0]
    assert data[37:41] == b"IDAT"
    assert struct.unpack(">L", data[41 + length : 45 + length])[0] == zlib.crc32(data[37 : 41 + length])
    data[41 + length] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), grey())
    with pytest.raises(InputError):
        decode_picture(tmp_path / "a.png")
