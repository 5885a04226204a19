"""The three analyses from checkpoints to files, and the figures that they report."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from counted import count_loaded, count_opened
from lim_gpu.analyse import analyse
from lim_gpu.analyse.gradcam import heat_maps, intersection_over_union
from lim_gpu.analyse.networks import load_probe
from lim_gpu.analyse.tsne import correlation, embed, silhouette
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import file_sha256
from lim_gpu.network import Network
from lim_gpu.progress import Reporter
from lim_gpu.weights.backbone import network, resnet
from lim_gpu.weights.load import Backbone, preprocess

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 pictures with a bright spot left or right, and two checkpoints; the second has a classifier."""
    folder = tmp_path_factory.mktemp("analyse")
    rng = np.random.default_rng(0)
    rows = [("file", "label", "split")]
    for i in range(24):
        pixels = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        column = 12 if i % 2 else 44
        pixels[24:40, column : column + 12] = 230
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append((f"{i}.png", "left" if i % 2 else "right", ("train", "val", "test")[min(i // 4, 2)]))
    with open(folder / "split.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    torch.manual_seed(0)
    for name in ("before", "after"):
        state = {f"encoder.{key}": value for key, value in resnet("resnet18").state_dict().items()}
        if name == "after":
            head = torch.nn.Linear(512, 2)
            state |= {f"head.{key}": value for key, value in head.state_dict().items()}
        torch.save({"state_dict": state}, folder / f"{name}.ckpt")
    return folder


def run(folder, kind, output, **options):
    return analyse(
        kind,
        folder / "before.ckpt",
        folder / "after.ckpt",
        folder,
        output,
        device="cpu",
        size=64,
        reporter=QUIET,
        **options,
    )


def test_cka_of_two_checkpoints(folder, tmp_path):
    values = run(folder, "cka", tmp_path / "cka.png", batch_size=8).values
    assert np.array(values["cka"]).shape == (10, 10)
    assert values["images"] == 16
    assert (tmp_path / "cka.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "cka.json").read_text()) == values
    same = analyse(
        "cka", folder / "before.ckpt", folder / "before.ckpt", folder, tmp_path / "same.png",
        device="cpu", size=64, reporter=QUIET,
    ).values  # fmt: skip
    assert same["mean_diagonal"] == pytest.approx(1)
    assert values["cka"] != same["cka"]


def test_maps_of_outputs(folder, tmp_path):
    values = run(folder, "tsne", tmp_path / "tsne.png").values
    assert [one["of"] for one in values["maps"]] == ["features: no classifier yet", "classifier outputs"]
    assert all(0 <= one["correlation"] <= 1 for one in values["maps"])
    assert np.array(values["maps"][0]["points"]).shape == (16, 2)


def test_heat_maps(folder, tmp_path):
    values = run(folder, "gradcam", tmp_path / "cam.png", images=4, shown=2).values
    assert len(values["iou"]) == 4
    assert values["mean_iou"] is None or 0 <= values["mean_iou"] <= 1


def heat_of(folder, tmp_path, name):
    """Grad-CAM of one random network of each kind, twice."""
    torch.manual_seed(0)
    state = {f"encoder.{key}": value for key, value in network(name, 1).state_dict().items()}
    torch.save({"state_dict": state, "lim_gpu": {"config": {"backbone": name}}}, tmp_path / "c.ckpt")
    how = {"device": "cpu", "size": 64, "images": 4, "shown": 2, "reporter": QUIET}
    return analyse("gradcam", *[tmp_path / "c.ckpt"] * 2, folder, tmp_path / "cam.png", **how).values


@pytest.mark.parametrize("name", ["vqae-small", "timm:test_resnet"])
def test_heat_maps_of_other_backbones(folder, tmp_path, name):
    assert heat_of(folder, tmp_path, name)["mean_iou"] == 1


def test_heat_maps_of_tokens_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"which timm:test_vit does not give. Give `analyse probe`") as caught:
        heat_of(folder, tmp_path, "timm:test_vit")
    assert "\n" not in str(caught.value)


def test_heat_maps_are_grad_cam_of_the_last_map(folder):
    """Of features that are the mean of a map, the gradient of their length is the features over their length."""
    state = network("vqae-small", 1).state_dict()
    own = Network(Backbone(state, "vqae-small", 1, "", preprocess(0.5, 0.5, 1), ""), {}).eval()
    probe = load_probe(folder, "test", 3, 64, torch.device("cpu"), QUIET)
    found = heat_maps(own, probe)
    for heat, images in zip(found, probe.inputs(own, 1), strict=True):
        with torch.no_grad():
            last = own.encoder.maps(images)[0]
        map_ = torch.einsum("c,chw->hw", last.mean((1, 2)), last).clamp(min=0)
        map_ = torch.nn.functional.interpolate(map_[None, None], (64, 64), mode="bilinear")[0, 0]
        assert np.corrcoef(heat.ravel(), map_.ravel())[0, 1] > 0.99


def test_each_checkpoint_is_read_once_and_named_by_what_was_read(folder, tmp_path, monkeypatch):
    opened, loaded = count_opened(monkeypatch), count_loaded(monkeypatch)
    values = run(folder, "tsne", tmp_path / "tsne.png").values
    assert [opened[folder / f"{name}.ckpt"] for name in ("before", "after")] == [1, 1]
    assert len(loaded) == 2
    monkeypatch.undo()
    digests = [file_sha256(folder / f"{name}.ckpt") for name in ("before", "after")]
    assert [one["sha256"] for one in values["checkpoints"]] == digests


def test_a_dry_run_names_the_output_and_checks_what_a_run_checks(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = (folder / "before.ckpt", folder / "after.ckpt", folder)
    loaded = count_loaded(monkeypatch)
    outcome = analyse("cka", *asked, dry_run=True, reporter=QUIET)
    assert outcome.values == {"dry_run": True, "output": "cka.png"}
    assert outcome.lines == [f"plan: cka of {asked[0]} and {asked[1]} on {asked[2]} -> cka.png"]
    for place in range(3):
        missing = (*asked[:place], tmp_path / "none", *asked[place + 1 :])
        with pytest.raises(InputError, match="none"):
            analyse("cka", *missing, dry_run=True, reporter=QUIET)
    (tmp_path / "cka.png").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        analyse("cka", *asked, dry_run=True, reporter=QUIET)
    assert not loaded


def test_again_it_is_unchanged(folder, tmp_path, monkeypatch):
    output = tmp_path / "cka.png"
    first = run(folder, "cka", output, images=8)
    before = output.stat().st_mtime_ns
    again = run(folder, "cka", output, images=8)
    assert again.lines == [f"unchanged: {output}"]
    assert again.values == first.values | {"unchanged": True}
    assert output.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="exists and was made otherwise"):
        run(folder, "cka", output, images=4)


def test_what_is_there_stays(folder, tmp_path):
    (tmp_path / "cka.json").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        run(folder, "cka", tmp_path / "cka.png")
    with pytest.raises(UsageError, match=r"\.png"):
        run(folder, "cka", tmp_path / "cka.pdf")


def test_the_correlation_does_not_change_when_the_map_is_turned():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    points = rng.normal(size=(60, 2)) + 3 * labels[:, None] * [1, 0]
    angle = 1.1
    turned = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert correlation(points, labels) == pytest.approx(correlation(turned, labels), abs=1e-12)
    assert correlation(points, labels) > 0.75
    assert correlation(rng.normal(size=(600, 2)), rng.integers(0, 2, 600)) < 0.2
    line = np.column_stack([points[:, 0], np.zeros(60)])
    assert correlation(line, labels) == pytest.approx(abs(np.corrcoef(points[:, 0], labels)[0, 1]))
    assert silhouette(points, labels) > 0.3
    assert silhouette(points, np.zeros(60, int)) is None


def test_few_images_lower_the_perplexity():
    assert embed(np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32), 0).shape == (6, 2)
    with pytest.raises(UsageError, match="at least 5"):
        embed(np.zeros((3, 2), np.float32), 0)


def test_overlap_of_heat_maps():
    a = np.zeros((3, 4, 4), np.float32)
    b = np.zeros((3, 4, 4), np.float32)
    a[0, :2], b[0, 1:3] = 1, 1
    a[1], b[1] = 0.7, 0.6
    assert intersection_over_union(a, b, 0.5)[:2].tolist() == [1 / 3, 1]
    assert np.isnan(intersection_over_union(a, b, 0.5)[2])
