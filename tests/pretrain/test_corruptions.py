"""What is done to images: squares of the right size anywhere, noise in the right share, and SciPy's median."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lim_gpu.pretrain.corruptions import draw_squares, inside, median, salt_and_pepper, square_side

GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    ("share", "by", "side"),
    [
        *[(0.05, "side", 25), (0.1, "side", 51), (0.2, "side", 102), (0.33, "side", 168)],
        *[(0.05, "area", 114), (0.2, "area", 229), (1e-9, "area", 1)],
    ],
)
def test_sides_are_the_published_ones(share, by, side):
    assert square_side(512, share, by) == side


def test_squares_lie_anywhere_but_in_the_margin():
    squares = draw_squares(400, 12, 5, 2, GENERATOR.manual_seed(0))
    assert set(squares[:, :2].flatten().tolist()) == set(range(6))
    hidden = inside(squares, 12)
    assert (hidden.sum((1, 2, 3)) == 25).all()
    assert not hidden[:, :, 10:].any()
    assert not hidden[..., 10:].any()
    top, left, side = squares[7].tolist()
    assert hidden[7, 0, top : top + side, left : left + side].all()


def test_noise_is_black_or_white_in_its_share_and_leaves_the_rest():
    images = torch.full((4, 1, 64, 64), 0.3)
    noisy = salt_and_pepper(images, 0.5, GENERATOR.manual_seed(0))
    share = {value: (noisy == value).float().mean().item() for value in (0.0, 1.0)}
    assert share == pytest.approx({0.0: 0.25, 1.0: 0.25}, abs=0.02)
    assert (noisy == images).float().mean() == pytest.approx(0.5, abs=0.02)


def test_the_median_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    images = torch.rand(2, 1, 9, 7, generator=GENERATOR.manual_seed(0))
    for image, found in zip(images[:, 0], median(images)[:, 0], strict=True):
        assert np.array_equal(found, ndimage.median_filter(image.numpy(), 5, mode="mirror"))
