"""How the texts of the command line become what a stage is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lim_gpu.cli.options import finetuning_request, parse_overrides, pretraining_options
from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity


def test_set_options():
    assert parse_overrides(["lr=0.1", "swav.queue = 64"]) == {"lr": "0.1", "swav.queue": "64"}
    for texts, message in ((["lr"], "is not NAME=VALUE"), (["=1"], "is not NAME=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(UsageError, match=message):
            parse_overrides(texts)


def test_pretraining_takes_an_intensity_and_a_mapping():
    options = {"window": "lung", "hu_range": None, "overrides": ("lr=0.1",), "epochs": 3}
    expected = {"intensity": Intensity.parse(window="lung"), "overrides": {"lr": "0.1"}, "epochs": 3}
    assert pretraining_options(options) == expected
    with pytest.raises(UsageError, match="window and hu-range exclude each other"):
        pretraining_options({"window": "lung", "hu_range": "0:1", "overrides": ()})


FINETUNE = {"protocol": "wolf2024-code", "epochs": None, "head_epochs": 2, "batch_size": None, "lr": 1e-3, "size": None}


@pytest.mark.parametrize(
    ("data", "flip", "expected"),
    [("organ.npz", None, False), ("organ.npz", True, True), ("covid", None, True), ("covid", False, False)],
)
def test_finetuning_mirrors_unless_the_images_are_medmnists_or_it_is_said(data, flip, expected):
    options = FINETUNE | {"data": Path(data), "flip": flip, "checkpoints": (), "runs": 2}
    request = finetuning_request(options, seed=4)
    assert request.protocol.flip is expected
    assert (request.data, request.runs, request.seed) == (Path(data), 2, 4)
    assert (request.protocol.epochs, request.protocol.head_epochs) == (70, 2)
    assert (request.protocol.lr, request.protocol.later_lr) == (1e-3, pytest.approx(2e-4))
