"""Probes of frozen features: against plain votes, on what can and cannot be told, and from checkpoints to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from labelled_folders import make_folder as make_folder
from labelled_folders import two_classes as two_classes
from lim_gpu.analyse import analyse
from lim_gpu.analyse.probe import NEIGHBOURS, PROBES, TEMPERATURE, cross_validated, probabilities, scores
from lim_gpu.errors import UsageError
from lim_gpu.progress import Reporter
from lim_gpu.weights.backbone import resnet


def clouds(n, apart, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, 8)) + apart * np.eye(8)[labels], labels


def test_neighbours_vote_by_their_cosine():
    (train, labels), (test, _) = clouds(60, 1), clouds(15, 1, seed=1)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (train, test)]
    expected = np.zeros((15, 3))
    for i, row in enumerate(unit[1] @ unit[0].T):
        for j in np.argsort(-row)[:NEIGHBOURS]:
            expected[i, labels[j]] += np.exp(row[j] / TEMPERATURE)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities("knn", train, labels, test, 3), expected, rtol=1e-6)


@pytest.mark.parametrize("name", PROBES)
def test_what_lies_apart_is_told_and_noise_is_not(name):
    for apart, low, high in ((8, 0.99, 1), (0, 0.2, 0.5)):
        (train, labels), (test, true) = clouds(150, apart), clouds(150, apart, seed=1)
        found = scores(probabilities(name, train, labels, test, 3), true)
        assert low <= found["accuracy"] <= high
        assert (found["auc"] > 0.99) == (apart > 0)


@pytest.mark.parametrize("name", PROBES)
def test_no_fold_sees_a_patient_of_its_test(name):
    """Features that tell the patient and nothing of the class: known patients would be told, unknown ones are not."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 4)
    labels = rng.integers(0, 2, 40)[groups]
    values = 5 * rng.normal(size=(40, 30))[groups] + 0.1 * rng.normal(size=(160, 30))
    seen = scores(probabilities(name, values[::2], labels[::2], values[1::2], 2), labels[1::2])
    apart = scores(cross_validated(name, values, labels, groups, 2, seed=0), labels)
    assert seen["accuracy"] > 0.95
    assert apart["accuracy"] < 0.75


def test_classes_that_are_missing():
    values, labels = clouds(30, 5)
    found = probabilities("linear", values[labels < 2], labels[labels < 2], values, 3)
    assert (found[:, 2] == 0).all()
    assert scores(found[labels < 2], labels[labels < 2])["auc"] is None
    with pytest.raises(UsageError, match="one class"):
        probabilities("knn", values[labels == 1], labels[labels == 1], values, 3)


@pytest.mark.parametrize("part", ["test", "all"])
def test_from_two_checkpoints_to_files(make_folder, two_classes, part, tmp_path):
    for n, row in enumerate(two_classes):
        row["split"] = ("train", "val", "test")[n // 2 % 3]
    data = make_folder(two_classes, table="split.csv")
    torch.manual_seed(0)
    for name in ("a", "b"):
        torch.save({f"encoder.{key}": value for key, value in resnet("resnet18").state_dict().items()}, data / name)
    how = {"part": part, "size": 32, "device": "cpu", "reporter": Reporter(quiet=True)}
    values = analyse("probe", data / "a", data / "b", data, tmp_path / "p.png", **how).values
    assert values["images"] == (20 if part == "test" else 60)
    assert values["learnt_from"] == (20 if part == "test" else None)
    assert [set(one) for one in values["probes"]] == [set(PROBES)] * 2
    assert values["probes"][0] != values["probes"][1]
    assert json.loads((tmp_path / "p.json").read_text()) == values
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="learns from train"):
        analyse("probe", data / "a", data / "b", data, tmp_path / "q.png", **how | {"part": "train"})
