"""Folders of PNG and JPEG: grouping, natural order, depth, colour; damaged and hostile files."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lim_gpu.ingest.pictures import picture_plans, read_picture, volume_name
from lim_gpu.ingest.records import Picture
from lim_gpu.ingest.scan import scan_files, walk
from lim_gpu.ingest.volume_plan import Keys
from lim_gpu.store.private import read_sources


def grey(seed=0, shape=(13, 11)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path: Path, pixels, kind="PNG", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, kind, **options)
    return path


def scanned(path: Path):
    (found,) = walk([path], leave_out=[]).files
    return scan_files([found], "CT", False)[0].content


def png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes = b"") -> Path:
    """A PNG that says what it likes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("name", "volume"),
    [
        ("data/scan/7.png", "data/scan"),
        ("data/p1_10.png", "data/p1"),
        ("data/p1_2_3.jpeg", "data/p1_2"),
        ("data/p1-10.png", "data"),
        ("data/2020.01.24-p27-132.png", "data"),
        ("p1_10.png", "p1"),
        ("alone.png", "alone.png"),
        ("data/_5.png", "data"),
    ],
)
def test_a_folder_or_a_prefix_before_a_number_is_a_volume(name, volume):
    assert volume_name(name) == volume


def test_volumes_in_natural_order(tmp_path, run):
    expected = {}
    for volume, count in (("a", 12), ("b", 2)):
        for i in range(count):
            write(tmp_path / "in" / f"{volume}_{i}.png", grey(i))
        expected[f"in/{volume}"] = [grey(i) for i in range(count)]
    for i in (1, 2, 10):
        write(tmp_path / "in" / "folder" / f"im{i}.png", grey(i + 50))
    expected["in/folder"] = [grey(i + 50) for i in (1, 2, 10)]
    result = run(keep_identifiers=True)
    assert [volume.entry.name for volume in result.volumes] == list(expected)
    for volume in result.volumes:
        np.testing.assert_array_equal(volume.read(), expected[volume.entry.name])
    header = result.volumes[0].header
    assert (header.source, header.modality, header.unit, header.dtype) == ("image", "", "8-bit", "uint8")
    assert (header.spacing, header.affine, header.orientation, header.defects) == (None, None, "", {})
    assert [Path(row["path"]).name for row in read_sources(result.store.path, result.volumes[-1].key)] == [
        "im1.png",
        "im2.png",
        "im10.png",
    ]


def test_sizes_and_depths_of_one_folder_are_volumes_of_one_patient(tmp_path, run):
    write(tmp_path / "in" / "1.png", grey(1))
    write(tmp_path / "in" / "2.png", grey(2, (9, 11)))
    write(tmp_path / "in" / "3.png", grey(3))
    write(tmp_path / "in" / "4.png", grey(4).astype(np.uint16) * 257)
    volumes = run().volumes
    assert [volume.entry.shape for volume in volumes] == [(2, 13, 11), (1, 9, 11), (1, 13, 11)]
    assert [volume.entry.dtype for volume in volumes] == ["uint8", "uint8", "int16"]
    assert len({volume.entry.patient for volume in volumes}) == 1
    assert len({volume.entry.key for volume in volumes}) == 3


def test_16_bit_loses_nothing(tmp_path, run):
    values = np.arange(0, 65536, 17, dtype=np.uint16).reshape(1, -1)
    write(tmp_path / "in" / "a.png", values)
    volume = run().only
    np.testing.assert_array_equal(volume.read()[0].astype(int) + 32768, values)
    assert (volume.header.unit, volume.header.defects) == ("16-bit", {"offset": 32768})


def test_16_bit_pictures_hold_hu_where_that_is_assumed(tmp_path, run):
    hounsfield = np.random.default_rng(0).integers(-1000, 2000, (9, 7))
    write(tmp_path / "in" / "a" / "1.png", (hounsfield + 32768).astype(np.uint16))
    write(tmp_path / "in" / "b" / "1.png", grey())
    deep, eight_bit = run(assume_hu=True).volumes
    np.testing.assert_array_equal(deep.read()[0], hounsfield)
    assert (deep.header.unit, deep.header.modality, deep.entry.holds_hu) == ("HU", "CT", True)
    assert deep.header.defects == {"assumed_hu": True, "offset": 32768}
    assert (eight_bit.header.unit, eight_bit.header.modality, eight_bit.header.defects) == ("8-bit", "", {})


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_pictures_lie_upright_in_the_store_and_that_they_were_turned_is_said(tmp_path, run):
    for i in range(3):
        lying = Image.fromarray(grey(i)).transpose(Image.Transpose.ROTATE_90)
        write(tmp_path / "in" / f"{i}.png", lying, exif=exif(6))
    write(tmp_path / "in" / "3.png", grey(3))
    result = run()
    np.testing.assert_array_equal(result.only.read(), [grey(i) for i in range(4)])
    assert result.only.header.defects == {"turned": True}
    assert "turned upright" in str(result.report.defects)


def test_a_store_of_pictures_that_lay_on_their_side_is_made_again(tmp_path, run):
    """Its fingerprint tells it from what the same files gave before they were turned."""
    for i in range(2):
        write(tmp_path / "in" / f"{i}.png", grey(i, (8, 8)), exif=exif(3))
    lying = [replace(picture, turned=False) for picture in map(scanned, sorted((tmp_path / "in").iterdir()))]
    turned = [replace(picture, turned=True) for picture in lying]
    before, after = (Keys(None).complete(picture_plans(pictures, None)[0], {}) for pictures in (lying, turned))
    assert before[0].key == after[0].key
    assert before[0].fingerprint != after[0].fingerprint


def test_colour_is_recorded_as_a_defect(tmp_path, run):
    write(tmp_path / "in" / "1.png", np.stack([grey(), grey(1), grey(2)], axis=-1))
    write(tmp_path / "in" / "2.png", grey())
    assert run().only.header.defects == {"colour": 1}


def test_the_content_decides_not_the_name(tmp_path):
    pixels = np.tile(np.arange(16, dtype=np.uint8) * 16, (16, 1))
    jpeg = write(tmp_path / "a.png", pixels, "JPEG", quality=100)
    assert isinstance(scanned(jpeg), Picture)
    nameless = write(tmp_path / "b.dat", pixels)
    assert isinstance(scanned(nameless), Picture)


def test_what_is_neither_is_named(tmp_path):
    assert str(scanned(write(tmp_path / "a.png", grey(), "BMP"))) == "damaged picture: neither PNG nor JPEG inside"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_and_what_pillow_would_lose_are_refused_before_they_are_loaded(tmp_path):
    cases = {
        "bomb": (png(tmp_path / "1.png", 12000, 12000, 8, 0), "impossible size: 12000 x 12000"),
        "huge": (png(tmp_path / "2.png", 2**30, 2**30, 8, 0), "impossible size"),
        "colour": (png(tmp_path / "3.png", 4, 4, 16, 2), "16-bit colour"),
        "alpha": (png(tmp_path / "4.png", 4, 4, 16, 4), "16-bit colour"),
    }
    for path, cause in cases.values():
        assert str(scanned(path)).startswith(cause)
    frames = [Image.fromarray(grey(i)) for i in range(3)]
    frames[0].save(tmp_path / "5.png", save_all=True, append_images=frames[1:])
    assert str(scanned(tmp_path / "5.png")).startswith("animated picture: 3 frames")


@pytest.mark.parametrize("size", [0, 4, 20, 40])
def test_a_cut_picture_is_named(tmp_path, size):
    data = write(tmp_path / "a.png", grey()).read_bytes()
    (tmp_path / "b.png").write_bytes(data[:size])
    (found,) = walk([tmp_path / "b.png"], leave_out=[]).files
    assert str(tmp_path) not in str(read_picture(found))


@pytest.mark.parametrize("skip", [False, True])
def test_a_damaged_picture_fails_its_volume_or_is_skipped(tmp_path, run, skip):
    for i in range(4):
        write(tmp_path / "in" / f"bad_{i}.png", grey(i))
        write(tmp_path / "in" / f"good_{i}.png", grey(i))
    path = tmp_path / "in" / "bad_2.png"
    path.write_bytes(path.read_bytes()[:-60])
    result = run(skip_bad_slices=skip)
    (failure,) = result.report.failures
    assert failure.path == str(path)
    assert failure.cause.startswith("damaged picture: ")
    assert [volume.entry.shape[0] for volume in result.volumes] == ([3, 4] if skip else [4])
    if skip:
        np.testing.assert_array_equal(result.volumes[0].read(), [grey(i) for i in (0, 1, 3)])
        lost = [{"cause": "damaged picture", "count": 1}]
        assert result.volumes[0].header.defects == {"skipped_slices": lost}


def test_the_patient_pattern_reads_the_volume_name(tmp_path, run):
    for name in ("LIDC-0001a_1", "LIDC-0001b_1", "LIDC-0002_1"):
        write(tmp_path / "in" / f"{name}.png", grey())
    patients = [volume.entry.patient for volume in run(patient_pattern=r"LIDC-\d+").volumes]
    assert [patients[0] == patients[1], patients[0] == patients[2]] == [True, False]
