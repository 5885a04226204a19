"""Pages stand alone: what is filled in is escaped, and nothing points outside."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lim_gpu.report.page import image_uri, svg_text


def test_an_image_comes_back_from_its_uri():
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    uri = image_uri(image, 32)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (32, 32)
    assert np.abs(np.asarray(picture.convert("L")).astype(int)[:, 1:-1] - image[::2, 2:-2:2]).max() < 12


def test_a_drawing_is_text_without_links_and_always_the_same():
    def draw() -> str:
        figure = Figure()
        figure.subplots().plot([1, 3, 2], label="line")
        return svg_text(figure)

    text = draw()
    assert text.startswith("<svg")
    assert "http" not in text
    assert "<metadata" not in text
    assert draw() == text
