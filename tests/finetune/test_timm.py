"""Classification on a backbone of timm, and a run that begins from what another left."""

from __future__ import annotations

import torch

from finetunings import QUIET, read, request
from lim_gpu.finetune.run import finetune

NAME = "timm:mobilenetv3_small_050"


def test_a_network_of_timm_classifies_and_its_checkpoint_is_a_start(make_folder, two_classes, tmp_path):
    folder, best = make_folder(two_classes), tmp_path / "run/runs/0/candidate-0/best.ckpt"
    finetune(request(folder, backbone=NAME, epochs=1), tmp_path / "run", "cpu", QUIET)
    assert read(tmp_path / "run/config.json")["starts"][0]["backbone"] == NAME
    own = request(folder, [best], epochs=1, head_epochs=1)
    finetune(own, tmp_path / "more", "cpu", QUIET)
    first, more = (torch.load(path)["state_dict"] for path in (best, tmp_path / "more/runs/0/candidate-0/best.ckpt"))
    assert torch.equal(first["encoder.conv_stem.weight"], more["encoder.conv_stem.weight"])
