"""Pictures are drawn from what they are given, and are whole files."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lim_gpu.reduction.picture import THUMBNAIL, finite_range, matrix_thumbnail, save_matrix_picture


@pytest.mark.parametrize("n", [1, 2, 33, 300])
def test_thumbnail_shows_the_matrix(n):
    matrix = np.random.default_rng(0).random((n, n)).astype(np.float32)
    thumbnail = matrix_thumbnail(matrix)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail["png"]))))
    assert image.shape == (min(n, THUMBNAIL),) * 2
    if n == 33:
        off = ~np.eye(n, dtype=bool)
        shown = thumbnail["low"] + image / 255 * (thumbnail["high"] - thumbnail["low"])
        assert np.abs(shown - matrix)[off].max() < 1 / 255


def test_pairs_that_were_not_compared_do_not_spoil_the_scale():
    matrix = np.full((4, 4), -np.inf, np.float32)
    matrix[0, 1] = matrix[1, 0] = 0.5
    matrix[2, 3] = matrix[3, 2] = 0.7
    assert finite_range(matrix) == (0.5, pytest.approx(0.7))
    assert matrix_thumbnail(matrix)["low"] == 0.5


@pytest.mark.parametrize("kept", [None, [0], [0, 5, 9], list(range(25))])
def test_the_picture_is_a_png(tmp_path, kept):
    matrix = np.random.default_rng(0).random((25, 25)).astype(np.float32)
    indices = None if kept is None else np.array(kept)
    images = None if kept is None else np.zeros((len(kept), 20, 30), np.uint8)
    save_matrix_picture(tmp_path / "m.png", matrix, "ssim", "SSIM", indices, images)
    assert Image.open(tmp_path / "m.png").size[0] > 500
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("distances", [False, True])
def test_what_is_more_alike_is_brighter(tmp_path, distances):
    matrix = np.where(np.arange(20)[:, None] // 10 == np.arange(20) // 10, 0.0 if distances else 64.0, 32.0)
    save_matrix_picture(tmp_path / "m.png", matrix, "hash", "bits", distances=distances)
    drawn = np.asarray(Image.open(tmp_path / "m.png").convert("L")).astype(float)
    height, width = drawn.shape
    alike, apart = (drawn[int(height * y), int(width * 0.3)] for y in (0.3, 0.65))
    assert alike > apart + 100
