"""Exported weights: they compute the same in three libraries, and say where they came from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import FOREIGN, under
from counted import count_opened
from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.export import export
from lim_gpu.weights.load import load_backbone, preprocess


@pytest.fixture(scope="module")
def exported(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("export")
    torch.save(FOREIGN["MoCo of Wolf et al."](state), folder / "c.ckpt")
    return folder, export(folder / "c.ckpt", folder / "w.safetensors")


@torch.no_grad()
def test_exported_weights_compute_the_same_in_torchvision_timm_and_monai(exported, state):
    folder, outcome = exported
    weights = load_file(folder / "w.safetensors")
    own = resnet("resnet18").eval()
    own.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    expected = own(images)
    from monai.networks.nets import resnet18 as monai_resnet18
    from timm import create_model
    from torchvision.models import resnet18

    torchvision = resnet18().eval()
    missing = torchvision.load_state_dict(weights, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    torchvision.fc = torch.nn.Identity()
    timm = create_model("resnet18", num_classes=0, in_chans=3).eval()
    timm.load_state_dict(weights)
    options = {"spatial_dims": 2, "n_input_channels": 3, "shortcut_type": "B", "bias_downsample": False}
    monai = monai_resnet18(**options, feed_forward=False, conv1_t_stride=2).eval()
    monai.load_state_dict(weights)
    for network in (torchvision, timm, monai):
        assert torch.equal(network(images), expected)
    trap = monai_resnet18(**options, feed_forward=False).eval()
    trap.load_state_dict(weights)
    assert not torch.allclose(trap(images), expected, atol=0.1)
    assert any("conv1_t_stride=2" in line for line in outcome.lines)


@torch.no_grad()
def test_the_printed_lines_load_a_resnet50(tmp_path):
    own = resnet("resnet50").eval()
    torch.save({"state_dict": under("encoder.", own.state_dict())}, tmp_path / "c.ckpt")
    outcome = export(tmp_path / "c.ckpt", tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 64, 64)
    import monai.networks.nets
    import timm
    import torchvision.models

    state = load_file(tmp_path / "w.safetensors")
    names = {"state": state, "timm": timm, "monai": monai, "torchvision": torchvision.models}
    for library in ("torchvision", "timm", "MONAI"):
        line = next(line for line in outcome.lines if line.startswith(f"{library}: "))
        build, _, load = line.removeprefix(f"{library}: ").partition("  #")[0].rpartition(".load_state_dict")
        network = eval(f"torchvision.{build}" if library == "torchvision" else build, names)  # what users are told
        eval(f"network.load_state_dict{load}", names | {"network": network})
        network.fc = torch.nn.Identity()
        assert torch.equal(network.eval()(images), own(images)), library


def test_the_json_tells_how_to_preprocess_and_where_it_came_from(exported):
    folder, outcome = exported
    record = json.loads((folder / "w.safetensors.json").read_text())
    assert record["backbone"] == "resnet18"
    assert record["tensors"] == 120
    assert record["preprocess"] == preprocess(0.1806, 0.1907, 3, stated=False)
    assert record["checkpoint"]["source"] == "MoCo of Wolf et al."
    assert outcome.values["sha256"] == record["sha256"]
    again = load_backbone(folder / "w.safetensors")
    assert (again.name, again.preprocess) == ("resnet18", record["preprocess"])


def test_export_again_is_unchanged_and_another_is_refused(exported, tmp_path):
    folder, _ = exported
    before = (folder / "w.safetensors").stat().st_mtime_ns
    assert export(folder / "c.ckpt", folder / "w.safetensors").values["unchanged"]
    assert (folder / "w.safetensors").stat().st_mtime_ns == before
    torch.save(resnet("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="--overwrite"):
        export(tmp_path / "other.pth", folder / "w.safetensors")
    with pytest.raises(UsageError, match=".safetensors"):
        export(folder / "c.ckpt", tmp_path / "w.pth")
    plan = export(folder / "c.ckpt", tmp_path / "w.safetensors", dry_run=True)
    assert plan.values["dry_run"]
    assert not (tmp_path / "w.safetensors").exists()
    (folder / "w2.safetensors").write_bytes(b"something else")
    export(folder / "c.ckpt", folder / "w2.safetensors", overwrite=True)
    assert len(load_file(folder / "w2.safetensors")) == 120


def test_one_channel_is_exported_for_timm_and_monai(tmp_path):
    own = resnet("resnet18", 1).eval()
    torch.save({"state_dict": under("encoder.", own.state_dict())}, tmp_path / "c.ckpt")
    outcome = export(tmp_path / "c.ckpt", tmp_path / "w.safetensors")
    assert not any(line.startswith("torchvision") for line in outcome.lines)
    from timm import create_model

    timm = create_model("resnet18", num_classes=0, in_chans=1).eval()
    timm.load_state_dict(load_file(tmp_path / "w.safetensors"))
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(timm(image), own(image))


def test_a_full_disk_is_one_line_and_leaves_what_was_there(exported, tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_arguments, **_options):
        raise SafetensorError("No space left on device (os error 28)")

    folder, _ = exported
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    (tmp_path / "w.safetensors").write_bytes(b"before")
    with pytest.raises(LimGpuError, match="w.safetensors: cannot be written: No space left"):
        export(folder / "c.ckpt", tmp_path / "w.safetensors", overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("w.safetensors", b"before")]


def test_a_checkpoint_is_read_once(tmp_path, state, monkeypatch):
    torch.save(state, tmp_path / "c.ckpt")
    opened = count_opened(monkeypatch)
    assert export(tmp_path / "c.ckpt", tmp_path / "w.safetensors").values["tensors"] == 120
    assert opened[tmp_path / "c.ckpt"] == 1
