"""The scores of pretext tasks: those of trivial answers by hand, means over volumes, what is refused, the picture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lim_gpu.analyse.pretext import pretext
from lim_gpu.errors import InputError, UsageError
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from pretrainings import arguments
from stores import make_store

QUIET = Reporter(quiet=True)
SIDE = 24
SHAPES = (("chest", 6, SIDE, SIDE), ("abdomen", 5, SIDE, SIDE))
SETTINGS = {
    "masked": {"reconstruct.shares": (0.1, 0.3)},
    "next-slice": {"reconstruct.max_mm": 10},
    "denoise": {"reconstruct.scale": (0.3, 0.6)},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("pretext"), SHAPES)


@pytest.fixture(scope="module")
def checkpoints(store, tmp_path_factory):
    """One epoch of each task; two of masked, a stage each."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for method in ("masked", "next-slice", "denoise", "rotation"):
        size = "orientation.size" if method == "rotation" else "reconstruct.size"
        overrides = {size: 32 if method == "rotation" else SIDE} | SETTINGS.get(method, {})
        options = arguments(method, epochs=2 if method == "masked" else 1, batch_size=4, overrides=overrides)
        pretrain(store, method, output=folder / method, **options)
    return folder


def measured(checkpoints, store, tmp_path, name="denoise/last.ckpt", **options):
    return pretext(checkpoints / name, store, tmp_path / "p.png", device="cpu", reporter=QUIET, **options)


def grey(store) -> list[np.ndarray]:
    with SliceStore(store) as opened:
        return [np.stack([volume.grey(i) for i in range(volume.entry.shape[0])]) / 255 for volume in opened]


def test_copying_the_slice_is_scored_as_by_hand(checkpoints, store, tmp_path):
    values = measured(checkpoints, store, tmp_path, "next-slice/last.ckpt").values
    each = [np.square(np.diff(volume, axis=0)).mean() for volume in grey(store)]
    found = values["scores"]["mse"]["the slice itself"]
    assert (found["mean"], found["sd"]) == pytest.approx((np.mean(each), np.std(each, ddof=1)), rel=1e-4)
    assert values["slices"] == 9
    assert set(values["scores"]) == {"mse", "clipped_mse", "ssim"}


def test_the_median_is_scipys_and_no_network_sees_the_target(checkpoints, store, tmp_path):
    """Of about half of the pixels the median errs; of clean ones hardly: the score lies between both."""
    values = measured(checkpoints, store, tmp_path).values
    clean = np.mean([np.square(ndimage.median_filter(v, (1, 5, 5)) - v).mean() for v in grey(store)])
    noisy = 0.5 * np.mean([0.5 * (np.square(v) + np.square(1 - v)).mean() for v in grey(store)])
    assert clean < values["scores"]["mse"]["5 x 5 median"]["mean"] < noisy
    assert 0 < values["scores"]["clipped_mse"]["network"]["mean"] < values["scores"]["mse"]["network"]["mean"]
    assert values["scores"]["clipped_mse"]["5 x 5 median"] == values["scores"]["mse"]["5 x 5 median"]


@pytest.mark.parametrize(("name", "share"), [("epoch=1.ckpt", 0.1), ("last.ckpt", 0.3)])
def test_a_stage_is_asked_for_its_own_share(checkpoints, store, tmp_path, name, share):
    outcome = measured(checkpoints, store, tmp_path, f"masked/{name}")
    assert outcome.values["share"] == share
    assert outcome.lines[0] == f"masked {share:g} of the area, mean ± sd over 2 volumes"
    black = outcome.values["scores"]["mse"]["black square"]["mean"]
    side = round(SIDE * share**0.5)
    within = outcome.values["scores"]["masked_mse"]["black square"]["mean"]
    assert black == pytest.approx(within * side**2 / SIDE**2, rel=1e-5)


def test_every_turn_is_asked_and_guessing_stands_beside(checkpoints, store, tmp_path):
    values = measured(checkpoints, store, tmp_path, "rotation/last.ckpt").values
    scores = values["scores"]
    assert scores["cross_entropy"]["guessing"]["mean"] == pytest.approx(math.log(4))
    assert (scores["accuracy"]["guessing"]["mean"], scores["auroc"]["guessing"]["mean"]) == (0.25, 0.5)
    assert 0 <= scores["auroc"]["network"]["mean"] <= 1
    assert scores["softmax_twice"]["network"]["mean"] >= math.log(1 + 3 / math.e) - 1e-6


def test_what_is_written_stands_and_another_is_refused(checkpoints, store, tmp_path):
    first = measured(checkpoints, store, tmp_path, shown=3)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 400
    assert json.loads((tmp_path / "p.json").read_text())["scores"] == first.values["scores"]
    assert measured(checkpoints, store, tmp_path, shown=3).values["unchanged"]
    with pytest.raises(UsageError, match="made otherwise"):
        measured(checkpoints, store, tmp_path, seed=1, shown=3)
    other = measured(checkpoints, store, tmp_path, seed=1, shown=3, overwrite=True)
    assert other.values["scores"] != first.values["scores"]


def test_few_slices_and_another_size(checkpoints, store, tmp_path):
    values = measured(checkpoints, store, tmp_path, images=3, size=32).values
    assert (values["slices"], values["size"]) == (3, 32)


def test_a_checkpoint_of_another_method_is_refused(store, tmp_path):
    pretrain(store, "moco", output=tmp_path / "run", **arguments("moco", epochs=1))
    with pytest.raises(InputError, match="is no checkpoint of a pretext task. Give one of lim-gpu"):
        pretext(tmp_path / "run/last.ckpt", store, tmp_path / "p.png", reporter=QUIET)
