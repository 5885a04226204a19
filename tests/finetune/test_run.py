"""A whole fine-tuning on procedural images: it learns, reports, goes on, chooses and compares."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from counted import count_loaded, count_opened
from finetunings import QUICK, QUIET, read, request
from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.finetune import training
from lim_gpu.finetune.data import read_data
from lim_gpu.finetune.protocol import protocol
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.run import finetune
from lim_gpu.finetune.splits import splits_of
from lim_gpu.progress import Reporter
from lim_gpu.weights.describe import describe_checkpoint
from lim_gpu.weights.load import load_backbone


def test_it_learns_and_every_file_says_so(make_folder, two_classes, tmp_path):
    folder = make_folder([{"file": f"i{n:03d}.png", "label": ("disc", "none")[n % 2]} for n in range(80)])
    asked = request(folder, epochs=8, head_epochs=1, lr=1e-3, positive="disc")
    outcome = finetune(asked, tmp_path / "run", "cpu", QUIET)
    results = read(tmp_path / "run/results.json")
    assert results["auc"]["mean"] > 0.9  # with four other draws of the images and seeds it is 1.000
    assert results["positive"] == "disc"
    assert results["f1_is"] == "F1 of class disc."
    for name in ("auc", "f1", "acc"):
        score = results[name]
        assert score["mean"] == pytest.approx(np.mean(score["runs"]))
        assert score["sd"] == pytest.approx(np.std(score["runs"], ddof=1))
        low, high = score["interval"] or (score["mean"], score["mean"])  # none where all runs are all right
        assert low <= score["mean"] <= high
    assert outcome.values["auc"] == results["auc"]
    with open(tmp_path / "run/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == 80
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(results["acc"]["mean"], abs=1e-6)
    assert sum(map(sum, results["confusion"])) == 80
    text = (tmp_path / "run/results.md").read_text()
    assert f"{results['auc']['mean']:.4f}" in text
    assert "disc (positive)" in text
    assert "Positive is disc; `--positive none` gives the scores of the other." in text
    with Image.open(tmp_path / "run/roc.png") as picture:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    best = tmp_path / "run/runs/1/candidate-0/best.ckpt"
    assert results["runs"][1]["checkpoint"] == "runs/1/candidate-0/best.ckpt"
    tuned = load_backbone(best)
    assert tuned.name == "resnet18"
    assert tuned.preprocess["mean"] == results["runs"][1]["normalisation"]["mean"]
    values, _ = describe_checkpoint(best)
    assert (values["method"], values["classes"]) == ("finetune", ["disc", "none"])


def test_a_finished_run_is_unchanged_and_another_is_refused(make_folder, two_classes, tmp_path, monkeypatch):
    folder, output = make_folder(two_classes), tmp_path / "run"
    finetune(request(folder), output, "cpu", QUIET)
    before = (output / "results.json").stat().st_mtime_ns
    monkeypatch.setattr(training, "train", None)
    again = finetune(request(folder), output, "cpu", QUIET)
    assert again.values["unchanged"]
    assert again.lines[0] == f"unchanged: {output}"
    assert (output / "results.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="--overwrite"):
        finetune(request(folder, seed=1), output, "cpu", QUIET)
    monkeypatch.undo()
    finetune(request(folder, seed=1), output, "cpu", QUIET, overwrite=True)
    assert [run["seed"] for run in read(output / "results.json")["runs"]] == [1, 2]


def test_an_interrupted_command_goes_on_and_gives_the_same(make_folder, two_classes, tmp_path, monkeypatch):
    folder = make_folder(two_classes)
    finetune(request(folder), tmp_path / "whole", "cpu", QUIET)
    real, seeds = training.train, []

    def interrupted(network, images, labels, split, *rest):
        seeds.append(split.seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return real(network, images, labels, split, *rest)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(request(folder), tmp_path / "run", "cpu", QUIET)
    assert not (tmp_path / "run/results.json").exists()
    assert finetune(request(folder), tmp_path / "run", "cpu", QUIET).values["unchanged"] is False
    assert seeds == [0, 1, 1]
    for name in ("results.json", "predictions.csv", "results.md"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_a_run_that_finished_no_training_is_in_nobodys_way(make_folder, two_classes, tmp_path, monkeypatch, error):
    def ended(*_):
        raise error("CUDA out of memory.\nTried to allocate")

    folder, real = make_folder(two_classes), training.train
    monkeypatch.setattr(training, "train", ended)
    with pytest.raises((KeyboardInterrupt, LimGpuError)) as caught:
        finetune(request(folder), tmp_path / "run", "cpu", QUIET)
    if error is torch.OutOfMemoryError:
        assert str(caught.value) == (
            "cpu: a step of 16 images does not fit in its memory. Give a smaller --batch-size or --size"
        )
    assert (tmp_path / "run/config.json").exists()
    monkeypatch.setattr(training, "train", real)
    finetune(request(folder, seed=1), tmp_path / "run", "cpu", QUIET)
    assert read(tmp_path / "run/config.json")["seeds"] == [1, 2]


def test_candidates_are_chosen_on_validation_never_on_test(make_folder, weights, tmp_path):
    rows = [{"file": f"i{n:02d}.png", "label": ("disc", "none")[n % 2]} for n in range(48)]
    rows = [row | {"split": "train" if n < 24 else "val" if n < 36 else "test"} for n, row in enumerate(rows)]
    right = make_folder(rows, table="split.csv")
    finetune(request(right, weights, folds=None, runs=2), tmp_path / "right", "cpu", QUIET)
    text = (right / "split.csv").read_text()
    swapped = [
        line.replace("disc", "?").replace("none", "disc").replace("?", "none") if "test" in line else line
        for line in text.split("\n")
    ]
    (right / "split.csv").write_text("\n".join(swapped))
    finetune(request(right, weights, folds=None, runs=2), tmp_path / "wrong", "cpu", QUIET)
    one, other = (read(tmp_path / name / "results.json") for name in ("right", "wrong"))
    assert one["candidates"] == other["candidates"]
    assert one["acc"]["mean"] == pytest.approx(1 - other["acc"]["mean"], abs=1e-6)
    assert sorted(candidate["chosen"] for candidate in one["candidates"]) == [0, 2]
    assert {run["start"] for run in one["runs"]} == set(one["start"])
    best = max(one["candidates"], key=lambda candidate: (candidate["val_acc"], -candidate["val_loss"]))
    assert best["chosen"] == 2
    assert len(list((tmp_path / "right").rglob("best.ckpt*"))) == 4  # with their JSON
    assert "chosen on validation" in (tmp_path / "right/results.md").read_text()


def test_checkpoints_bring_their_normalisation_and_their_weights(make_folder, two_classes, weights, tmp_path):
    folder = make_folder(two_classes)
    finetune(request(folder, weights[:1], epochs=1), tmp_path / "run", "cpu", QUIET)
    results = read(tmp_path / "run/results.json")
    assert results["runs"][0]["normalisation"] == {"mean": [0.18] * 3, "std": [0.19] * 3}
    tuned = load_backbone(tmp_path / "run/runs/0/candidate-0/best.ckpt")
    given = load_backbone(weights[0])
    assert all(torch.equal(tuned.state[name], value) for name, value in given.state.items())  # head phase alone


def test_each_checkpoint_is_read_once(make_folder, two_classes, weights, tmp_path, monkeypatch):
    folder = make_folder(two_classes)
    opened, loaded = count_opened(monkeypatch), count_loaded(monkeypatch)
    finetune(request(folder, weights), tmp_path / "run", "cpu", QUIET)
    assert [opened[path] for path in weights] == [1, 1]
    assert len(loaded) == len(weights) + 2  # and the best epoch of each fold
    opened.clear(), loaded.clear()
    assert finetune(request(folder, weights), tmp_path / "run", "cpu", QUIET).values["unchanged"]
    assert [opened[path] for path in weights] == [1, 1]  # to be hashed
    assert loaded == []


def test_many_classes_and_medmnist(draw, tmp_path):
    path, rng = tmp_path / "toy.npz", np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 30), ("val", 9), ("test", 12)):
        labels = np.arange(n, dtype=np.uint8) % 3
        arrays[f"{part}_images"] = np.stack([draw(rng, ("disc", "bar", "none")[label], 28) for label in labels])
        arrays[f"{part}_labels"] = labels[:, None]
    np.savez(path, **arrays)
    finetune(request(path, folds=None, runs=1, flip=False), tmp_path / "run", "cpu", QUIET)
    results = read(tmp_path / "run/results.json")
    assert results["positive"] is None
    assert results["f1"]["mean"] == results["f1_macro"]["mean"]
    assert results["auc"]["sd"] is None
    assert np.array(results["confusion"]).shape == (3, 3)
    asked = Request(path, protocol("wolf2024-code", **QUICK), backbone="resnet18", runs=1)
    finetune(asked, tmp_path / "code", "cpu", QUIET)
    assert read(tmp_path / "code/results.json")["runs"][0]["normalisation"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(UsageError, match="only two classes"):
        finetune(request(path, folds=None, runs=1, positive="1"), tmp_path / "other", "cpu", QUIET)


def test_a_dry_run_writes_nothing_and_loads_no_torch(make_folder, two_classes, tmp_path):
    folder = make_folder(two_classes)
    program = (
        "import sys; from lim_gpu.cli import cli\n"
        f"arguments = ['finetune', {str(folder)!r}, '--dry-run', '-o', {str(tmp_path / 'run')!r}]\n"
        "try: cli.main(arguments, standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numba', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "60 images (30 disc, 30 none)" in done.stdout
    assert "run 4: seed 4, train 43, val 5, test 12" in done.stdout
    assert not (tmp_path / "run").exists()


def test_equal_images_across_a_fixed_split_are_said(make_folder, tmp_path, capsys):
    rows = [
        {"file": f"i{n:02d}.png", "label": ("disc", "none")[n % 2], "split": ("train", "test")[n // 20]}
        for n in range(40)
    ]
    folder = make_folder(rows, table="split.csv")
    (folder / "i30.png").write_bytes((folder / "i00.png").read_bytes())
    finetune(request(folder, folds=None, runs=1, epochs=1), tmp_path / "run", "cpu", Reporter())
    text = capsys.readouterr().err
    assert "1 images stand both in test and in train or val" in text
    assert "only the last layer trains" in text


@pytest.mark.parametrize(("asked", "warned"), [({"flip": False}, False), ({}, True), ({"head_epochs": 2}, True)])
def test_a_linear_probe_that_was_asked_for_is_no_mistake(make_folder, two_classes, tmp_path, capsys, asked, warned):
    options = {"epochs": 1, "head_epochs": 1, "folds": None, "runs": 1} | asked
    finetune(request(make_folder(two_classes), **options), tmp_path / "run", "cpu", Reporter())
    assert ("only the last layer trains" in capsys.readouterr().err) == warned


def test_folds_over_all_images_keep_those_that_are_alike_together(make_folder, two_classes, tmp_path):
    parts = [row | {"split": ("train", "val", "test")[n % 3]} for n, row in enumerate(two_classes)]
    folder = make_folder(parts, table="split.csv")
    with pytest.raises(UsageError, match="is fixed"):
        finetune(request(folder, epochs=1), tmp_path / "run", "cpu", QUIET, dry_run=True)
    groups = tmp_path / "groups.csv"
    groups.write_text("cluster,image\n" + "".join(f"{n // 6},i{n:02d}.png\n" for n in range(24)))
    asked = request(folder, epochs=1, folds=5, ignore_split=True, groups=groups)
    table = read_data(asked, QUIET)
    tests = [set(split.test.tolist()) for split in splits_of(asked, table, table.groups())]
    assert sorted(place for test in tests for place in test) == list(range(60))
    for first in range(0, 24, 6):
        assert sum(not test.isdisjoint(range(first, first + 6)) for test in tests) == 1
    with pytest.raises(UsageError, match="exclude each other"):
        request(folder, split=folder / "split.csv", ignore_split=True)


def test_the_command_line(make_folder, two_classes, tmp_path, preloaded):
    lim_gpu = partial(preloaded.run, "-m", "lim_gpu.cli")
    folder = make_folder(two_classes)
    options = (
        "--backbone",
        "resnet18",
        "--size",
        32,
        "--epochs",
        1,
        "--head-epochs",
        0,
        "--folds",
        2,
        "--device",
        "cpu",
    )
    done = lim_gpu("finetune", folder, *options, "-o", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert {"mean", "sd", "runs"} <= set(json.loads(done.stdout)["auc"])
    again = lim_gpu("finetune", folder, *options, "-o", tmp_path / "run")
    assert again.returncode == 0
    assert again.stdout.startswith(f"unchanged: {tmp_path / 'run'}")
    (folder / "i09.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    bad = lim_gpu("finetune", folder, *options, "-o", tmp_path / "other")
    assert bad.returncode == 3
    assert bad.stderr.count("\n") == 1
    assert "i09.png" in bad.stderr
    refused = lim_gpu("finetune", folder, *options, "-o", tmp_path / "run")
    assert refused.returncode == 2
    exported = lim_gpu("export", tmp_path / "run/runs/0/candidate-0/best.ckpt", "-o", tmp_path / "w.safetensors")
    assert exported.returncode == 0, exported.stderr
    assert "conv1_t_stride=2" in exported.stdout
    info = lim_gpu("info", tmp_path / "run/runs/0/candidate-0/best.ckpt")
    assert "finetune resnet18, epoch 0" in info.stdout
