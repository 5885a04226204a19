"""What the picture of a comparison says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.report.compare_picture import comparison_picture
from lim_gpu.report.compared import Compared


@pytest.fixture(scope="module")
def figure():
    """Of a selection and a baseline that keep slices 0 and 2 of three, which HASH puts 16, 32 and 48 bits apart."""
    matrix = np.array([[1, 0.75, 0.5], [0.75, 1, 0.25], [0.5, 0.25, 1]], dtype=np.float32)
    compared = []
    for name, method, seconds in (("mine", "hash", 1.0), ("random", "random", None)):
        one = Compared(name, method, {"v": np.array([0, 2])}, seconds)
        for metric in ("ssim", "hash"):
            one.add(metric, matrix, np.array([0, 2]))
        compared.append(one)
    return comparison_picture(compared, ["ssim", "hash"])


def test_the_legend_explains_colours_and_markers(figure):
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    handles = legend.legend_handles
    assert texts == ["mine", "random", "circle: a selection", "square: every-n or random with as many slices"]
    assert [handle.get_marker() for handle in handles] == ["o", "s", "o", "s"]
    assert handles[2].get_color() == handles[3].get_color() != handles[0].get_color()


def test_hash_is_in_bits_and_the_best_is_up_on_the_left(figure):
    _overlap, ssim, of_hash = figure.axes
    assert ssim.get_xlabel() == "kept slices: mean SSIM (less is better)"
    assert of_hash.get_xlabel() == "kept slices: mean bits apart (more is better)"
    assert of_hash.get_ylabel() == "worst covered dropped slice: bits apart (fewer is better)"
    assert [line.get_xydata().tolist() for line in of_hash.lines] == [[[32, 16]]] * 2
    assert [line.get_xydata().tolist() for line in ssim.lines] == [[[0.5, 0.75]]] * 2
    assert (of_hash.xaxis_inverted(), of_hash.yaxis_inverted()) == (True, True)
    assert (ssim.xaxis_inverted(), ssim.yaxis_inverted()) == (False, False)
