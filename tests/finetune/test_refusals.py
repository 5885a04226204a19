"""What a fine-tuning refuses, and what it leaves alone then."""

from __future__ import annotations

import pytest
import torch

from finetunings import QUIET, request
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.finetune.run import finetune


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"runs": 0, "folds": None}, UsageError, "--runs 0"),
        ({"folds": 1}, UsageError, "--folds 1"),
        ({"runs": 2}, UsageError, "exclude each other"),
        ({"seed": -1}, UsageError, "--seed -1"),
        ({"init": "zeros"}, UsageError, "--init zeros"),
        ({"positive": "square"}, UsageError, "disc, none"),
        ({"backbone": "vit_b_16"}, UsageError, "vit_b_16"),
    ],
)
def test_what_contradicts_itself(make_folder, two_classes, tmp_path, options, error, word):
    with pytest.raises(error, match=word):
        finetune(request(make_folder(two_classes), **options), tmp_path / "run", "cpu", QUIET)
    assert not (tmp_path / "run/config.json").exists()


def test_a_dry_run_refuses_what_is_no_checkpoint(make_folder, two_classes, tmp_path):
    (tmp_path / "README.md").write_text("# A title\n")
    asked = request(make_folder(two_classes), checkpoints=(tmp_path / "README.md",), backbone=None)
    with pytest.raises(InputError, match=r"README.md: is no checkpoint"):
        finetune(asked, tmp_path / "run", "cpu", QUIET, dry_run=True)


def test_checkpoints_that_do_not_fit(make_folder, two_classes, weights, tmp_path):
    folder = make_folder(two_classes)
    with pytest.raises(InputError, match="holds resnet18, not resnet50"):
        finetune(request(folder, weights, backbone="resnet50"), tmp_path / "run", "cpu", QUIET)
    with pytest.raises(UsageError, match="--init imagenet and --checkpoint"):
        request(folder, weights, init="imagenet")
    with pytest.raises(UsageError, match="given twice"):
        request(folder, [weights[0], weights[0]])
    with pytest.raises(InputError, match="none.ckpt"):
        finetune(request(folder, [tmp_path / "none.ckpt"]), tmp_path / "run", "cpu", QUIET)
    torch.save(
        torch.load(weights[0], weights_only=True) | {"lim_gpu": {"preprocess": {"mean": [0.1], "std": [0.0]}}},
        weights[1],
    )
    with pytest.raises(InputError, match="no usable mean and std"):
        finetune(request(folder, weights), tmp_path / "run", "cpu", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(make_folder, two_classes, tmp_path):
    folder, output = make_folder(two_classes), tmp_path / "mine"
    output.mkdir()
    (output / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="inside the data"):
        finetune(request(folder), folder / "run", "cpu", QUIET)
    with pytest.raises(UsageError, match="holds other files"):
        finetune(request(folder), output, "cpu", QUIET, overwrite=True)
    (output / "config.json").write_text('{"format": "lim-gpu-pretrain"}')
    with pytest.raises(UsageError, match="another program's run"):
        finetune(request(folder), output, "cpu", QUIET, overwrite=True)
    assert {path.name for path in output.iterdir()} == {"thesis.tex", "config.json"}


def test_a_full_disk_is_one_line(make_folder, two_classes, tmp_path, monkeypatch):
    def full(*_arguments):
        raise RuntimeError("[enforce fail at inline_container.cc:820] . PytorchStreamWriter failed writing file")

    folder = make_folder(two_classes)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LimGpuError, match="best.ckpt: cannot be written"):
        finetune(request(folder, epochs=1), tmp_path / "run", "cpu", QUIET)
    assert not list((tmp_path / "run").rglob("*.ckpt*"))
