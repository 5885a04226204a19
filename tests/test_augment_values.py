"""Batched brightness, contrast, blur and noise against Pillow and torchvision, image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.functional import adjust_brightness, adjust_contrast

from augmented import GREY, as_float, four_slices, generator, pillow
from lim_gpu import augment
from lim_gpu.errors import UsageError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def slices():
    return four_slices()


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_brightness_and_contrast_are_torchvisions_on_pillow(slices, factor):
    pixels, _ = slices
    for i in range(4):
        image = pillow(pixels, i)
        grey, factors = as_float(image)[None, None], torch.tensor([factor])
        # Pillow cuts to whole grey levels, and rounds the mean: half a level more where the factor is not 1
        brighter = augment.adjust_brightness(grey, factors)[0, 0]
        assert (brighter - as_float(adjust_brightness(image, factor))).abs().max() < 1.01 * GREY
        harder = augment.adjust_contrast(grey, factors)[0, 0]
        assert (harder - as_float(adjust_contrast(image, factor))).abs().max() < 1.51 * GREY


def test_jitter_is_one_order_or_the_other(slices):
    """Brightness then contrast, or contrast then brightness, or untouched; only clipping tells the two orders apart."""
    images = augment.resize(*slices, 16)[3:].repeat(1000, 1, 1, 1)
    jittered = augment.color_jitter(images, 0.4, 0.4, 0.8, generator())
    touched = (jittered != images).flatten(1).any(1)
    assert 0.72 < touched.float().mean() < 0.88
    draws = torch.rand((4, 1000), generator=generator(), dtype=torch.float64)
    bright, contrast = 0.6 + 0.8 * draws[1], 0.6 + 0.8 * draws[2]
    one = augment.adjust_contrast(augment.adjust_brightness(images, bright), contrast)
    other = augment.adjust_brightness(augment.adjust_contrast(images, contrast), bright)
    is_one = (jittered - one).flatten(1).abs().amax(1) < 1e-6
    is_other = (jittered - other).flatten(1).abs().amax(1) < 1e-6
    assert (is_one | is_other)[touched].all()
    clear = touched & (is_one ^ is_other)
    assert clear.sum() > 100
    assert 0.4 < is_one[clear].float().mean() < 0.6


def test_hue_and_saturation_do_nothing_to_grey():
    """Why there are none of them here."""
    grey = torch.rand(1, 16, 16).expand(3, -1, -1)
    jittered = v2.ColorJitter(saturation=(0.2, 0.2), hue=(0.3, 0.3))(grey)
    torch.testing.assert_close(jittered, grey, rtol=0, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_blur_is_a_plain_convolution(slices, device):
    images = augment.resize(*slices, 30)
    sigma = torch.tensor([0.0, 0.1, 0.9, 2.0])
    blurred = augment.blur(images.to(device), sigma, 8).cpu()
    assert torch.equal(blurred[0], images[0])
    for i in (1, 2, 3):
        kernel = np.array([math.exp(-0.5 * (k / float(sigma[i])) ** 2) for k in range(-8, 9)])
        kernel /= kernel.sum()
        padded = np.pad(images[i, 0].double().numpy(), 8, mode="edge")
        across = np.stack([np.convolve(row, kernel, "valid") for row in padded])
        expected = np.stack([np.convolve(column, kernel, "valid") for column in across.T]).T
        assert np.abs(blurred[i, 0].numpy() - expected).max() < (1e-6 if device == "cpu" else 0.2 * GREY)


def test_sigma_is_pillows_radius(slices):
    """Pillow approximates the Gaussian by three boxes."""
    from PIL import ImageFilter

    pixels, _ = slices
    grey = as_float(pillow(pixels, 0))[None, None]
    for radius in (0.8, 1.5, 2.0):
        theirs = as_float(pillow(pixels, 0).filter(ImageFilter.GaussianBlur(radius)))
        errors = [
            float((augment.blur(grey, torch.tensor([s]), 10)[0, 0] - theirs).abs().mean())
            for s in (radius / 1.25, radius, radius * 1.25)
        ]
        assert errors[1] == min(errors)
        assert errors[1] < 0.75 * GREY


def test_blur_strikes_with_its_probability_and_range(slices):
    images = augment.resize(*slices, 16).repeat(100, 1, 1, 1)
    touched = (augment.gaussian_blur(images, 0.5, (0.5, 2), generator()) != images).flatten(1).any(1)
    assert 0.42 < touched.float().mean() < 0.58
    torch.testing.assert_close(augment.gaussian_blur(images, 0.0, (0.5, 2), generator()), images, rtol=0, atol=0)


def test_noise_has_the_variance():
    images = torch.full((500, 1, 24, 24), 0.5)
    noise = augment.gaussian_noise(images, 0.5, (1e-5, 1e-4), generator()) - images
    deviation = noise.flatten(1).std(1)
    touched = deviation > 0
    assert 0.42 < touched.float().mean() < 0.58
    logs = deviation[touched].log() * 2
    low, high = math.log(1e-5), math.log(1e-4)
    assert abs(float(logs.mean()) - (low + high) / 2) < 0.15
    assert low - 0.25 < float(logs.min()) < low + 0.25
    assert high - 0.25 < float(logs.max()) < high + 0.25
    assert abs(float(noise.mean())) < 1e-4
    assert not torch.equal(noise[touched][0], noise[touched][1])
    assert augment.gaussian_noise(torch.ones(5, 1, 9, 9), 1.0, (0.1, 0.2), generator()).max() == 1


def test_normalize():
    images = torch.rand(2, 1, 4, 4)
    one = augment.normalize(images, 0.2, 0.5, 3)
    torch.testing.assert_close(one, v2.functional.normalize(images.repeat(1, 3, 1, 1), [0.2] * 3, [0.5] * 3))
    means, stds = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    several = augment.normalize(images, means, stds, 3)
    torch.testing.assert_close(several, v2.functional.normalize(images.repeat(1, 3, 1, 1), means, stds))
    assert augment.normalize(images, 0.2, 0.5, 1).shape == (2, 1, 4, 4)
    with pytest.raises(UsageError, match="do not fit channels 1"):
        augment.normalize(images, means, stds, 1)
