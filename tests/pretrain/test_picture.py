"""The picture of the views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.picture import SIDE, save_views
from lim_gpu.pretrain.plan import make_plan
from lim_gpu.pretrain.resident import StreamedSlices
from lim_gpu.pretrain.training import build_method
from lim_gpu.selection.selected import open_selected
from stores import make_store

TINY = {
    "swav": {"swav.large_size": 32, "swav.small_size": 32, "swav.small_crops": 2, "swav.hidden": 16},
    "moco": {"moco.size": 32},
    "spark": {"spark.size": 64},
}
ROWS = {"swav": 4, "moco": 2, "spark": 2}


@pytest.mark.parametrize("method", ["swav", "moco", "spark"])
def test_a_column_a_slice_and_a_row_a_view(method, tmp_path):
    store = make_store(tmp_path)
    config = resolve(method, "recommended", {"backbone": "resnet18", "batch_size": 4, "epochs": 1} | TINY[method])
    with open_selected(store) as slices:
        module = build_method(make_plan(config, slices, Intensity()))
        save_views(module, StreamedSlices(slices), tmp_path / "views.png")
    picture = np.asarray(Image.open(tmp_path / "views.png"))
    assert picture.shape == (ROWS[method] * SIDE, 6 * SIDE)
    tiles = picture.reshape(ROWS[method], SIDE, 6, SIDE).transpose(0, 2, 1, 3).reshape(-1, SIDE * SIDE)
    assert tiles.std(axis=1).min() > 5  # no view is blank
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    if method == "spark":
        assert (picture[SIDE:] == picture[:SIDE]).mean() > 0.2
