"""The matrix of a volume: HASH in bits where a person looks at it, as a similarity where a program reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction import picture
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.matrix_verb import similarity_verb
from stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("matrix"), (("chest", 6, 24, 24),))


def matrix_of(store: Path, method: str, output: Path):
    how = {"keep": None, "device": "cpu", "dry_run": False, "overwrite": False, "reporter": Reporter(quiet=True)}
    return similarity_verb(store, "0", Criterion(method, Intensity.parse()), output, **how)


@pytest.mark.parametrize(("method", "scale"), [("hash", "bits apart"), ("ssim", "SSIM")])
def test_a_picture_of_hash_shows_bits(store, tmp_path, monkeypatch, method, scale):
    drawn = []
    save = picture.save_matrix_picture

    def noted(path, matrix, title, scale, *more, distances):
        drawn.append((matrix, scale, distances))
        save(path, matrix, title, scale, *more, distances=distances)

    monkeypatch.setattr(picture, "save_matrix_picture", noted)
    matrix_of(store, method, tmp_path / "m.npy")
    outcome = matrix_of(store, method, tmp_path / "m.png")
    matrix = np.load(tmp_path / "m.npy")
    bits = method == "hash"
    [(shown, label, distances)] = drawn
    assert (label, distances, outcome.values["scale"]) == (scale, bits, scale)
    np.testing.assert_array_equal(shown, 64 * (1 - matrix) if bits else matrix)
    assert (f"0 to {shown.max():.0f} bits apart ->" in outcome.lines[0]) == bits


def test_the_array_of_hash_stays_a_similarity(store, tmp_path):
    outcome = matrix_of(store, "hash", tmp_path / "m.npy")
    matrix = np.load(tmp_path / "m.npy")
    assert (matrix.diagonal() == 1).all()
    assert f"{matrix.min():.4f} to 1.0000 ->" in outcome.lines[0]
    assert "scale" not in outcome.values
