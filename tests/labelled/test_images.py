"""Pixels: their orientation, grey and colour, sizes, and files that cannot be decoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lim_gpu.errors import InputError
from lim_gpu.labelled.images import Normalisation, batches, decode, load_images, network_input, resized
from lim_gpu.labelled.table import read_table
from lim_gpu.progress import Reporter

QUIET = Reporter(quiet=True)


def test_the_first_row_is_the_top_and_monais_default_swaps_the_axes(tmp_path):
    from monai.data import PILReader
    from monai.transforms import LoadImage

    image = np.zeros((30, 50), dtype=np.uint8)
    image[:5, :20] = 200  # top left
    Image.fromarray(image).save(tmp_path / "a.png")
    own = decode(tmp_path / "a.png")
    assert np.array_equal(own[0], image)
    swapped = LoadImage(PILReader(), image_only=True)(tmp_path / "a.png")
    kept = LoadImage(PILReader(reverse_indexing=False), image_only=True)(tmp_path / "a.png")
    assert np.array_equal(kept.numpy(), own[0])
    assert np.array_equal(swapped.numpy(), own[0].T)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_grey_of_every_mode_is_one_channel(tmp_path, mode):
    grey = np.where(np.arange(48).reshape(6, 8) % 3, 255, 0).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png")[0], grey)


def test_colour_has_three_and_16_bits_their_own_range(tmp_path):
    Image.fromarray(np.full((4, 5, 3), (10, 20, 30), dtype=np.uint8)).save(tmp_path / "c.png")
    assert decode(tmp_path / "c.png")[:, 0, 0].tolist() == [10, 20, 30]
    Image.fromarray(np.array([[1000, 3000, 5000]], dtype=np.uint16)).save(tmp_path / "d.png")
    assert decode(tmp_path / "d.png")[0, 0].tolist() == [0, 128, 255]


def test_a_picture_is_upright(tmp_path):
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    tags = Image.Exif()
    tags[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=tags)
    assert np.array_equal(decode(tmp_path / "a.png")[0], image)


def test_a_jpeg_that_is_named_png_is_read_and_others_are_not(tmp_path):
    Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(tmp_path / "a.png", format="JPEG")
    assert abs(int(decode(tmp_path / "a.png").mean()) - 90) <= 1
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "b.png", format="BMP")
    with pytest.raises(InputError, match="b.png: cannot be decoded"):
        decode(tmp_path / "b.png")


def test_a_corrupt_image_is_named(make_folder, two_classes):
    folder = make_folder(two_classes)
    whole = (folder / "i07.png").read_bytes()
    (folder / "i07.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="i07.png: cannot be decoded") as error:
        load_images(read_table(folder), 32, "bilinear", QUIET)
    assert "\n" not in str(error.value)


def test_images_come_in_the_order_of_the_table_at_one_size(make_folder, two_classes):
    folder = make_folder(two_classes, side=64)
    images = load_images(read_table(folder), 64, "bilinear", QUIET)
    assert images.pixels.shape == (60, 1, 64, 64)
    assert images.pixels.dtype == torch.uint8
    for place in (0, 17, 59):
        assert np.array_equal(images.pixels[place].numpy(), decode(folder / two_classes[place]["file"]))
    assert load_images(read_table(folder), 32, "bilinear", QUIET).pixels.shape == (60, 1, 32, 32)


def test_equal_pixels_have_equal_digests_though_their_files_differ(make_folder, two_classes):
    folder = make_folder(two_classes)
    Image.fromarray(decode(folder / "i00.png")[0]).convert("RGB").save(folder / "i01.png", compress_level=1)
    digests = load_images(read_table(folder), 32, "bilinear", QUIET).digests
    assert digests[0] == digests[1]
    assert len(set(digests)) == 59


def test_area_is_monais_and_bilinear_is_pillows():
    from monai.transforms import Resize

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 1, 50, 70), dtype=np.uint8))
    area = Resize((32, 32), mode="area")(pixels[0].float()).numpy()
    assert np.abs(resized(pixels, 32, "area")[0].numpy() - area).max() <= 0.5
    pillow = np.asarray(Image.fromarray(pixels[0, 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(resized(pixels, 32, "bilinear")[0, 0].numpy().astype(int) - pillow).max() <= 1


def test_the_network_sees_grey_replicated_or_luminance_normalised():
    grey = torch.full((2, 1, 8, 8), 51, dtype=torch.uint8)
    seen = network_input(grey, 8, "bilinear", Normalisation((0.1, 0.2, 0.3), (0.5, 0.5, 0.5)))
    assert seen.shape == (2, 3, 8, 8)
    assert seen[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.0, -0.2], abs=1e-6)
    colour = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert network_input(colour, 8, "bilinear", Normalisation((0.0,), (1.0,)))[0, 0, 0, 0] == pytest.approx(0.299)
    assert network_input(grey, 16, "area", Normalisation((0.0,), (1.0,))).shape == (2, 1, 16, 16)


def test_normalisation_of_the_images_themselves():
    pixels = torch.randint(0, 256, (300, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = Normalisation.of(pixels, 3)
    values = pixels.double() / 255
    assert found.mean == pytest.approx([float(values.mean())] * 3)
    assert found.std == pytest.approx([float(values.std(correction=0))] * 3)
    assert Normalisation.of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 1).std[0] > 0


def test_one_image_left_over_joins_the_batch_before_it():
    assert [len(part) for part in batches(range(65), 64)] == [65]
    assert [len(part) for part in batches(range(66), 64)] == [64, 2]
    assert [len(part) for part in batches(range(1), 64)] == [1]
