"""Labelled procedural images, and weights to begin with."""

from __future__ import annotations

import pytest
import torch

from labelled_folders import draw as draw
from labelled_folders import make_folder as make_folder
from labelled_folders import two_classes as two_classes
from lim_gpu.weights.backbone import resnet


@pytest.fixture
def weights(tmp_path):
    """Two checkpoints of ours."""
    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"epoch={seed}.ckpt")
        state = {f"encoder.{name}": value for name, value in resnet("resnet18").state_dict().items()}
        torch.save({"state_dict": state, "lim_gpu": {"preprocess": {"mean": [0.18], "std": [0.19]}}}, paths[-1])
    return paths
