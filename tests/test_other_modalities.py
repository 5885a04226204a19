"""MR and PET, whose values are no HU, through every stage: DICOM, store, selection, training, features, predictions."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from dicom_files import series
from finetunings import QUIET
from finetunings import request as finetune_request
from lim_gpu.errors import UsageError
from lim_gpu.finetune.run import finetune
from lim_gpu.inference.embed import embed
from lim_gpu.inference.predict import predict
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.run import pretrain
from lim_gpu.reduction.run import reduce
from lim_gpu.report import write_report
from lim_gpu.report.compare import compare
from lim_gpu.store.slices import SliceStore
from pretrainings import arguments

HOW = {"intensity": "volume-percentile", "device": "cpu"}
SLICES = 8


@pytest.fixture(scope="module", params=["MR", "PT"])
def store_path(request, tmp_path_factory):
    """Two patients of the same pixels; MR as it is stored, PET with a rescale that is no HU's."""
    folder = tmp_path_factory.mktemp(request.param)
    values = {"Modality": request.param, "signed": False, "RescaleType": None}
    values["rescale"] = None if request.param == "MR" else (0.5, 0)
    for patient in ("a", "b"):
        names = {"series": patient, "study": patient, "patient": patient}
        series(folder / "in" / patient, SLICES, **names, **values)
    series(folder / "in" / "ct", 3)  # of another modality: left out
    ingest([folder / "in"], folder / "slices", modality=request.param, workers=1)
    return folder / "slices"


def test_only_that_modality_is_stored_and_a_window_in_hu_is_refused(store_path):
    with SliceStore(store_path) as store:
        assert {entry.modality for entry in store.volumes} == {store_path.parent.name.rstrip("0123456789")}
        assert [entry.shape[0] for entry in store.volumes] == [SLICES] * 2
    with pytest.raises(UsageError, match="volume-percentile"):
        reduce(store_path, "hash", window="lung", device="cpu")


def test_grey_goes_by_the_percentiles_of_the_volume(store_path):
    with SliceStore(store_path) as store:
        volume = store[0]
        stored = volume.read()
        low, high = np.percentile(stored, [0.5, 99.5])
        expected = np.rint((np.clip(stored, low, high) - low) / (high - low) * 255)
        grey = Intensity.of("volume-percentile").of_volume(volume).to_uint8(stored)
    assert np.abs(grey - expected).max() <= 1  # ranks of whole values, not between two


@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
@pytest.mark.parametrize("rule", ["greedy", "facility", "k-center"])
def test_every_rule_selects(store_path, method, rule):
    selection = reduce(store_path, method, keep=0.4, rule=rule, **HOW)
    assert selection.record["parameters"]["intensity"]["mapping"] == "volume-percentile"
    assert [int(volume.kept.sum()) for volume in selection.volumes] == [4, 4]


def test_from_a_selection_to_predictions(store_path, tmp_path):
    reduce(store_path, "ssim", keep=0.6, output=tmp_path / "s.csv", **HOW)
    run = {"epochs": 1, "selection": tmp_path / "s.csv", "output": tmp_path / "run"}
    settings = {"strength": 0.5, "moco.hard_beta": 1, "moco.class_prior": 0.1, "moco.mask_near_mm": 4}
    pretrain(store_path, "moco", **arguments("moco", intensity="volume-percentile", overrides=settings, **run))
    checkpoint = tmp_path / "run" / "last.ckpt"
    made = embed(store_path, checkpoint, tmp_path / "f.npy", device="cpu", reporter=QUIET).values
    assert made["view"]["intensity"]["mapping"] == "volume-percentile"
    assert np.ptp(np.load(tmp_path / "f.npy"), axis=0).max() > 0
    learnt = reduce(store_path, "deepnet", keep=0.4, weights=checkpoint, **HOW)
    assert learnt.record["network"]["method"] == "moco"
    result = compare([tmp_path / "s.csv"], tmp_path / "c.csv", device="cpu", reporter=QUIET)
    assert result.values["rows"][0]["ssim_covered"] is not None
    write_report([tmp_path / "s.csv"], tmp_path / "r.html")
    every = reduce(store_path, "ssim", keep=1.0, output=tmp_path / "every.csv", **HOW)
    every.apply(tmp_path / "kept", form="png", store=store_path)
    labels = label_halves(tmp_path / "kept")
    finetune(finetune_request(tmp_path / "kept", [checkpoint]), tmp_path / "ft", "cpu", QUIET)
    best = tmp_path / "ft" / "runs" / "0" / "candidate-0" / "best.ckpt"
    window = Intensity.of("volume-percentile")
    predict(store_path, best, tmp_path / "p.csv", intensity=window, device="cpu", reporter=QUIET)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * SLICES
    assert {row["predicted"] for row in rows} <= labels


def label_halves(folder):
    """Write labels.csv for the pictures of `apply`: the lower half of each volume, and the upper; returns both."""
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        for path in sorted(folder.rglob("*.png")):
            low = int(path.stem) < SLICES // 2
            writer.writerow([path.relative_to(folder), "low" if low else "high"])
    return {"low", "high"}
