"""Slices as HTML: pictures come back from it, texts are escaped, and every notebook view is one line and a strip."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import lim_gpu
from lim_gpu.store.slices import SliceStore
from lim_gpu.strip import SHOWN, bar, image_uri, strip
from stores import make_store


def pictures(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) for text in found]


def test_an_image_comes_back_from_its_uri():
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    uri = image_uri(image, 32)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (32, 32)
    shown, shrunk = np.asarray(picture.convert("L")).astype(int), image[::2, ::2].astype(int)
    assert np.abs(shown - shrunk).mean() < np.abs(shown - shrunk.T).mean() / 10  # lossy, and no other picture
    (exact,) = pictures(f'src="{image_uri(image, lossless=True)}"')
    np.testing.assert_array_equal(exact, image)


def test_texts_are_escaped():
    html = strip("<b>", [("a & b", np.zeros((9, 9), np.uint8))])
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html


def test_a_bar_has_a_shade_a_slice():
    shades = np.array([0, 255, 7], np.uint8)
    (picture,) = pictures(bar("title", shades, "what it means"))
    assert (picture[0] == shades).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strip")
    make_store(folder)
    return folder


def test_a_store_and_a_volume_show_themselves(folder):
    with SliceStore(folder / "slices") as store:
        assert re.fullmatch(r"SliceStore\('.*slices': 4 volumes, 35 slices\)", repr(store))
        assert len(pictures(store._repr_html_())) == 4
        volume = store[0]
        assert repr(volume) == f"Volume({volume.key}: 14 x 48 x 40 uint8)"
        shown = pictures(volume._repr_html_())
        assert len(shown) == SHOWN
        apart = np.abs(shown[0].astype(int) - volume.read()).mean(axis=(1, 2))
        assert apart.argmin() == 0  # the first slice, at its own size


def test_a_selection_shows_kept_slices_and_stays_readable_without_its_store(folder, tmp_path):
    with SliceStore(folder / "slices") as store:
        selection = lim_gpu.reduce(store, "every-n", keep_count=2, output=folder / "s.csv")
        kept = [store[key].read_slice(i) for key, i in selection.kept()]
    assert repr(selection) == "Selection(7 of 35 slices in 4 volumes)"
    for one in (selection, lim_gpu.Selection.load(folder / "s.csv")):
        shown = pictures(one._repr_html_())
        assert [picture.shape for picture in shown] == [image.shape for image in kept]
    selection.save(tmp_path / "moved.csv")
    html = lim_gpu.Selection.load(tmp_path / "moved.csv")._repr_html_()
    assert "Selection(7 of 35 slices in 4 volumes)" in html
    assert "no such folder" in html
    assert repr(selection.volumes[0]) == f"VolumeSelection({selection.volumes[0].key}: 2 of 14 slices)"


def test_a_ranking_shows_how_long_each_slice_stays():
    matrix = np.array([[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]], np.float32)
    ranking = lim_gpu.rank(matrix)
    assert repr(ranking) == "Ranking(3 slices, 2 removals at similarity 0.9 to 0.2)"
    (picture,) = pictures(ranking._repr_html_())
    assert picture[0].tolist() == [255, 0, 127]  # slice 1 goes first, slice 2 next, slice 0 stays
    assert repr(lim_gpu.rank(matrix[:1, :1])) == "Ranking(1 slice, 0 removals)"
