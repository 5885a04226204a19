"""A fine-tuning and a checkpoint of a pre-training, made once."""

from __future__ import annotations

import json

import pytest
import torch

from finetunings import QUIET, request
from labelled_folders import picture
from lim_gpu.finetune.run import finetune
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.load import FORMAT, preprocess, sidecar


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory):
    """The data and the run folder of a fine-tuning of two classes, with its own split."""
    import csv

    import numpy as np
    from PIL import Image

    data, run = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run") / "run"
    rng = np.random.default_rng(0)
    rows = [("file", "label", "split")]
    for n in range(36):
        label = ("disc", "none")[n % 2]
        Image.fromarray(picture(rng, label)).save(data / f"i{n:02d}.png")
        rows.append((f"i{n:02d}.png", label, ("train", "val", "test")[n % 3]))
    with open(data / "split.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    finetune(request(data, folds=None, runs=1), run, "cpu", QUIET)
    return data, run


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A function that writes a checkpoint as `pretrain` does, for slices seen by `intensity`: its path and network."""

    def make(**intensity):
        torch.manual_seed(0)
        network, path = resnet("resnet18", 1).eval(), tmp_path_factory.mktemp("pretrained") / "last.ckpt"
        about = {"format": FORMAT, "version": 1, "method": "moco", "backbone": "resnet18", "channels": 1}
        about["preprocess"] = preprocess(0.3, 0.25, 1, size=64, intensity=intensity or {"mapping": "slice-minmax"})
        state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
        torch.save({"state_dict": state, "lim_gpu": about}, path)
        sidecar(path).write_text(json.dumps(about))
        return path, network

    return make
