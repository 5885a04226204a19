"""Fine-tuning on the slices of a store by a table of labels: classes, fractions, contexts, masks."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from finetunings import QUIET, read, request
from lim_gpu.errors import UsageError
from lim_gpu.finetune.run import finetune
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.describe import describe_checkpoint
from volumes import write_store


@pytest.fixture
def labelled(tmp_path):
    """A store of 8 patients, two volumes each, of 3 slices; a bright disc where the label says so, and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:36, :36]
    disc = (y - 18) ** 2 + (x - 14) ** 2 < 60
    volumes = []
    for number in range(16):
        pixels = rng.normal(-500, 60, (3, 36, 36))
        pixels[number // 2 % 2] += 700 * disc
        volumes.append(pixels.astype(np.int16))
    store = write_store(tmp_path / "slices", volumes)
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["volume", "slice", "finding", "mask"])
        for number, entry in enumerate(SliceStore(store).volumes):
            writer.writerows([entry.key, i, i == number // 2 % 2, "disc.png"] for i in (0, 1))
    return store


def asked(labelled, **options):
    own = {"labels": labelled.parent / "labels.csv", "target": "finding", "folds": 2, "epochs": 1, "head_epochs": 0}
    return request(labelled, **(own | options))


def test_classes_of_a_store_are_learnt_with_a_threshold_of_validation(labelled, tmp_path):
    own = asked(labelled, choose="auc", context=1, epochs=3, lr=1e-3)
    finetune(own, tmp_path / "run", "cpu", QUIET)
    results = read(tmp_path / "run/results.json")
    assert (results["images"], results["positive"]) == (32, "True")
    for run in (0, 1):
        test = read(tmp_path / f"run/runs/{run}/test.json")
        positive, called = (np.array(part) for part in (test["labels"], np.array(test["probabilities"])[:, 1]))
        expected = (called >= test["threshold"])[positive == 1].mean()
        assert results["sensitivity"]["runs"][run] == pytest.approx(expected)
    assert "specificity" in (tmp_path / "run/results.md").read_text()
    training = read(tmp_path / "run/runs/0/candidate-0/training.json")
    assert training["val_auc"] == max(entry["val_auc"] for entry in training["history"])
    values, _ = describe_checkpoint(tmp_path / "run/runs/0/candidate-0/best.ckpt")
    assert values["preprocess"]["intensity"] == {"mapping": "slice-minmax"}
    assert values["preprocess"]["context"] == 1


def test_a_fraction_and_an_intensity_are_another_request_and_the_usual_ones_are_as_before(labelled):
    usual = asked(labelled).parameters([])
    assert not {"fraction", "choose", "context", "intensity", "task"} & set(usual)
    assert asked(labelled, fraction=0.5).parameters([])["fraction"] == 0.5


def test_a_fraction_of_the_patients_trains(labelled, tmp_path):
    lines = {}
    for fraction in (1.0, 0.5):
        outcome = finetune(asked(labelled, fraction=fraction), tmp_path / "run", "cpu", QUIET, dry_run=True)
        lines[fraction] = outcome.values["runs"]
    for whole, half in zip(lines[1.0], lines[0.5], strict=True):
        assert half["train"] == whole["train"] * 2 / 3  # 2 of 3 patients: half of them, rounded up
        assert (half["val"], half["test"]) == (whole["val"], whole["test"])


def test_masks_of_a_store_are_learnt(labelled, tmp_path):
    pytest.importorskip("monai")
    own = asked(labelled, target=None, task="segmentation")
    finetune(own, tmp_path / "run", "cpu", QUIET)
    assert read(tmp_path / "run/results.json")["images"] == 32


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": None}, "`labels`"),
        ({"context": 2}, "`context` 2"),
        ({"fraction": 0.0}, "`fraction` 0"),
        ({"fraction": 1.5}, "`fraction` 1.5"),
        ({"choose": "luck"}, "`choose`"),
        ({"task": "both"}, "`task`"),
    ],
)
def test_contradictions_are_refused(labelled, options, reason):
    with pytest.raises(UsageError, match=reason):
        asked(labelled, **options)


def test_a_store_without_its_table_is_told_so(labelled, tmp_path):
    with pytest.raises(UsageError, match="is a store"):
        finetune(request(labelled), tmp_path / "run", "cpu", QUIET)


def test_a_network_of_one_channel_has_no_context(labelled, tmp_path):
    state = {f"encoder.{name}": value for name, value in resnet("resnet18", 1).state_dict().items()}
    torch.save({"state_dict": state, "lim_gpu": {"preprocess": {"mean": [0.2], "std": [0.2]}}}, tmp_path / "grey.ckpt")
    own = asked(labelled, checkpoints=[tmp_path / "grey.ckpt"], backbone=None, context=1)
    with pytest.raises(UsageError, match="takes one channel"):
        finetune(own, tmp_path / "run", "cpu", QUIET)
