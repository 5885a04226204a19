"""Batched crops, rotations and flips against Pillow and torchvision, image by image, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from augmented import GREY, SIZES, as_float, four_slices, generator, pillow
from lim_gpu import augment
from lim_gpu.errors import UsageError

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def slices():
    return four_slices()


def resized(image, size, interpolation):
    """Pillow's resize, across first: where bicubic clips, the order of the passes counts, and Pillow 13 may swap it."""
    return as_float(
        image.resize((size, image.height), PILLOW[interpolation]).resize((size,) * 2, PILLOW[interpolation])
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [7, 32, 50, 131])
@pytest.mark.parametrize("interpolation", sorted(PILLOW))
def test_crop_and_resize_is_pillows(slices, interpolation, size, device):
    pixels, sizes = slices
    boxes = augment.random_boxes(sizes.repeat(6, 1), (0.02, 1.0), (0.3, 3.0), generator(size))
    boxes[:4] = torch.tensor([[0, 0, h, w] for h, w in SIZES])
    boxes[4:8] = torch.tensor([[h - 1, w - 1, 1, 1] for h, w in SIZES])
    images = augment.crop_and_resize(pixels.to(device), boxes, size, interpolation).cpu()
    assert images.shape == (24, 1, size, size)
    assert images.dtype == torch.float32
    for i, box in enumerate(boxes.tolist()):
        expected = resized(pillow(pixels, i % 4, box), size, interpolation)
        # Pillow rounds to 8 bits twice: half a grey level after each pass, the first smoothed by the second
        assert (images[i, 0] - expected).abs().max() < 1.3 * GREY, box


def test_float16_is_within_a_quarter_of_a_grey_level(slices, monkeypatch):
    """What the tensor cores are given: weights, pixels and the sums between the passes."""
    pixels, sizes = slices
    boxes = augment.random_boxes(sizes, (0.5, 1.0), (0.7, 1.4), generator())
    (top, left, height, width), args = boxes.float().T.unsqueeze(-1), (120, 40, "bicubic")
    weights = [
        [augment._resampling(start, length, *args, dtype)[:, 0].float() for dtype in (torch.float32, torch.float16)]
        for start, length in ((top, height), (left, width))
    ]
    (down, down16), (across, across16) = weights
    exact = down @ (pixels.float() @ across.mT).clamp(0, 255)
    rounded = down16 @ (pixels.float() @ across16.mT).clamp(0, 255).half().float()
    assert 0.01 < (exact.clamp(0, 255) - rounded.half().float().clamp(0, 255)).abs().max() < 0.25


def test_without_antialiasing_stripes_would_stay():
    """512 to 224: a pattern finer than an output pixel becomes grey."""
    stripes = torch.zeros(1, 512, 512, dtype=torch.uint8)
    stripes[:, :, ::2] = 254
    images = augment.resize(stripes, torch.tensor([[512, 512]]), 224)
    assert images[..., 2:-2].std() < 0.06
    aliased = torch.nn.functional.interpolate(stripes[None].float() / 255, (224, 224), mode="bilinear")
    assert aliased.std() > 0.2


def test_padding_never_shows(slices):
    pixels, sizes = slices
    other = pixels.clone()
    for i, (height, width) in enumerate(SIZES):
        other[i, height:], other[i, :, width:] = 200, 200
    views = [augment.random_resized_crop(p, sizes, 20, (0.3, 1), (0.75, 1.33), generator()) for p in (pixels, other)]
    assert torch.equal(*views)


@pytest.mark.parametrize("interpolation", sorted(PILLOW))
def test_resize_takes_the_whole_slice_or_its_central_square(slices, interpolation):
    pixels, sizes = slices
    whole = augment.resize(pixels, sizes, 24, interpolation)
    square = augment.resize(pixels, sizes, 24, interpolation, square=True)
    for i, (height, width) in enumerate(SIZES):
        side = min(height, width)
        box = ((height - side) // 2, (width - side) // 2, side, side)
        for images, image in ((whole, pillow(pixels, i)), (square, pillow(pixels, i, box))):
            expected = resized(image, 24, interpolation)
            assert (images[i, 0] - expected).abs().max() < 1.3 * GREY


def test_an_unknown_interpolation_is_refused(slices):
    with pytest.raises(UsageError, match="'area' is unknown. Give bilinear or bicubic"):
        augment.resize(*slices, 10, "area")


def test_several_crops_are_ordered_by_crop(slices):
    pixels, sizes = slices
    together = augment.random_resized_crop(pixels, sizes, 16, (0.2, 0.9), (0.75, 4 / 3), generator(3), crops=3)
    boxes = augment.random_boxes(sizes.repeat(3, 1), (0.2, 0.9), (0.75, 4 / 3), generator(3))
    for crop, images in enumerate(together.chunk(3)):
        single = augment.crop_and_resize(pixels, boxes[4 * crop : 4 * crop + 4], 16)
        torch.testing.assert_close(images, single, rtol=0, atol=1e-6)


def test_autocast_does_not_round(slices):
    pixels, sizes = slices
    plain = augment.resize(pixels, sizes, 24)
    blurred = augment.gaussian_blur(plain, 1.0, (1, 2), generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.resize(pixels, sizes, 24), plain)
        assert torch.equal(augment.gaussian_blur(plain, 1.0, (1, 2), generator()), blurred)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.1, 0.33), (3 / 4, 4 / 3)), ((0.9, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (0.9, 1))]
)
def test_boxes_have_torchvisions_distribution(scale, ratio):
    """Means and spreads of place and size against as many boxes of torchvision's own, on a slice that is not square."""
    n, (height, width) = 6000, (300, 260)
    boxes = augment.random_boxes(torch.tensor([[height, width]]).expand(n, 2), scale, ratio, generator(1)).double()
    torch.manual_seed(2)
    image = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)]).double()
    error = 5 * (boxes.var(0) / n + theirs.var(0) / n).sqrt() + 1e-9
    assert ((boxes.mean(0) - theirs.mean(0)).abs() < error).all()
    assert ((boxes.std(0) / theirs.std(0) - 1).abs() < 0.1).all()


def test_boxes_are_in_range():
    boxes = augment.random_boxes(torch.tensor([[400, 500]]).expand(3000, 2), (0.1, 0.33), (0.75, 4 / 3), generator())
    top, left, height, width = boxes.unbind(1)
    area, ratio = height * width / 200_000, width / height
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 400).all()
    assert (left + width <= 500).all()
    assert 0.099 < area.min() < 0.11
    assert 0.32 < area.max() < 0.332
    assert 0.74 < ratio.min() < 0.78
    assert 1.29 < ratio.max() < 1.35


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (50, 40)])
def test_what_never_fits_is_torchvisions_centre(size):
    """A share of more than the slice fits nowhere."""
    expected = RandomResizedCrop.get_params(torch.empty(1, *size), (1.5, 2.0), (3 / 4, 4 / 3))
    boxes = augment.random_boxes(torch.tensor([size]), (1.5, 2.0), (3 / 4, 4 / 3), generator())
    assert tuple(boxes[0].tolist()) == tuple(expected)


def test_the_same_generator_gives_the_same_views(slices):
    pixels, sizes = slices

    def views(seed):
        draw = generator(seed)
        images = augment.random_resized_crop(
            augment.rotate(pixels, sizes, (-180, 180), 0.5, draw), sizes, 20, (0.3, 1), (0.75, 1.33), draw
        )
        images = augment.vertical_flip(augment.flip(images, 0.5, draw), 0.5, draw)
        images = augment.gaussian_blur(augment.color_jitter(images, 0.4, 0.4, 0.8, draw), 0.5, (0.1, 2), draw)
        return augment.gaussian_noise(images, 0.5, (1e-5, 1e-4), draw)

    assert torch.equal(views(0), views(0))
    assert not torch.equal(views(0), views(1))


@pytest.mark.gpu
def test_the_gpu_gives_the_same_views(slices):
    pixels, sizes = slices

    def views(device):
        draw = generator(5)
        images = augment.rotate(pixels.to(device), sizes, (-180, 180), 0.5, draw, "bilinear")
        images = augment.random_resized_crop(images, sizes, 40, (0.3, 1), (0.75, 1.33), draw, crops=2)
        images = augment.color_jitter(augment.flip(images, 0.5, draw), 0.4, 0.4, 0.8, draw)
        return augment.gaussian_blur(images, 0.5, (0.1, 2), draw).cpu()

    torch.testing.assert_close(views("cuda"), views("cpu"), rtol=0, atol=1.5 * GREY)


@pytest.mark.gpu
def test_the_cpu_does_not_wait_for_the_gpu(slices):
    pixels, sizes = slices[0].cuda(), slices[1]

    def views(draw):
        turned = augment.rotate(pixels, sizes, (-180, 180), 0.9, draw)
        images = augment.random_resized_crop(turned, sizes, 40, (0.3, 1), (0.75, 1.33), draw, crops=2)
        images = augment.color_jitter(augment.flip(images, 0.5, draw), 0.4, 0.4, 0.8, draw)
        images = augment.gaussian_noise(augment.gaussian_blur(images, 0.5, (0.1, 2), draw), 0.5, (1e-5, 1e-4), draw)
        return augment.normalize(images, 0.2, 0.2, 3)

    views(generator())
    torch.cuda.set_sync_debug_mode("error")
    try:
        views(generator())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("interpolation", "resample"), [("nearest", 0), ("bilinear", 2)])
def test_rotation_is_pillows(slices, interpolation, resample):
    pixels, sizes = slices
    for degrees in (37.0, -120.5):
        turned = augment.rotate(pixels, sizes, (degrees, degrees), 1.0, generator(), interpolation)
        for i, (height, width) in enumerate(SIZES):
            expected = np.asarray(pillow(pixels, i).rotate(degrees, resample)).astype(int)
            difference = np.abs(turned[i, :height, :width].numpy() - expected)
            inner = np.asarray(Image.new("L", (width - 4, height - 4), 1))
            inner = np.asarray(Image.fromarray(np.pad(inner, 2)).rotate(degrees)) > 0  # Pillow repeats the outline
            assert np.mean(difference[inner] <= 1) > 0.998
            assert not turned[i, height:].any()
            assert not turned[i, :, width:].any()
            assert (turned[i, :height, :width].numpy() != pixels[i, :height, :width].numpy()).mean() > 0.05
    assert torch.equal(augment.rotate(pixels, sizes, (-180, 180), 0.0, generator()), pixels)


def test_flips(slices):
    images = augment.resize(*slices, 16).repeat(100, 1, 1, 1)
    for function, axis in ((augment.flip, -1), (augment.vertical_flip, -2)):
        flipped = function(images, 0.3, generator())
        done = (flipped == images.flip(axis)).flatten(1).all(1)
        kept = (flipped == images).flatten(1).all(1)
        assert (done ^ kept).all()
        assert 0.2 < done.float().mean() < 0.4
