"""Exported weights: they compute the same in three libraries, and say where they came from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import lim_gpu.weights.backbone
from checkpoints import FOREIGN, under
from counted import count_opened
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.finetune.training import Classifier
from lim_gpu.network import load_network
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.reconstruct import Denoise
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.export import export
from lim_gpu.weights.load import load_backbone, preprocess, sidecar


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


@torch.no_grad()
def test_a_fine_tuned_network_keeps_its_classifier(tmp_path, state):
    network = Classifier("resnet18", 3, 2)
    network.encoder.load_state_dict(state)
    about = {"method": "finetune", "classes": ["clear", "spot"], "preprocess": preprocess(0.5, 0.5, 3)}
    torch.save({"state_dict": network.state_dict(), "lim_gpu": about}, tmp_path / "best.ckpt")
    outcome = export(tmp_path / "best.ckpt", tmp_path / "w.safetensors")
    assert "classifier: fc of 2 classes, clear, spot" in outcome.lines
    assert json.loads((tmp_path / "w.safetensors.json").read_text())["classes"] == ["clear", "spot"]
    weights, images = load_file(tmp_path / "w.safetensors"), torch.rand(2, 3, 64, 64)
    from monai.networks.nets import resnet18 as monai_resnet18
    from timm import create_model
    from torchvision.models import resnet18

    monai = {"spatial_dims": 2, "n_input_channels": 3, "shortcut_type": "B", "bias_downsample": False}
    for other in (
        resnet18(num_classes=2),
        create_model("resnet18", num_classes=2, in_chans=3),
        monai_resnet18(**monai, num_classes=2, conv1_t_stride=2),
    ):
        other.load_state_dict(weights)
        torch.testing.assert_close(other.eval()(images), network.eval()(images))
    assert any("num_classes=2" in line for line in outcome.lines if line.startswith("MONAI"))
    assert load_backbone(tmp_path / "w.safetensors").state.keys() == state.keys()


def test_a_classifier_of_another_maker_is_named(tmp_path, state):
    torch.save(state | {"fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}, tmp_path / "c.pth")
    outcome = export(tmp_path / "c.pth", tmp_path / "w.safetensors")
    assert "left out, a classifier: fc.bias, fc.weight" in outcome.lines


@pytest.mark.parametrize(("step", "said"), [(8, ", of step 8 of 12, not finished"), (12, "")])
def test_a_pre_training_that_has_not_ended_is_said_to(tmp_path, state, step, said):
    torch.save(state, tmp_path / "last.ckpt")
    told = {"format": "lim-gpu-checkpoint", "global_step": step, "total_steps": 12, "finished": step == 12}
    sidecar(tmp_path / "last.ckpt").write_text(json.dumps(told))
    plain = export(tmp_path / "last.ckpt", tmp_path / "w.safetensors").lines[0]
    assert plain.startswith(f"120 tensors of resnet18 (torchvision names{said}) -> ")


def test_a_plan_refuses_what_is_no_checkpoint(tmp_path, state):
    (tmp_path / "README.md").write_text("# A title\n")
    with pytest.raises(InputError, match="is no checkpoint, which torch.save or safetensors writes"):
        export(tmp_path / "README.md", tmp_path / "w.safetensors", dry_run=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert export(tmp_path / "old.pth", tmp_path / "w.safetensors", dry_run=True).values["dry_run"]


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


def test_weights_may_be_read_by_whom_their_record_may(exported):
    folder, _ = exported
    weights, record = ((folder / name).stat().st_mode for name in ("w.safetensors", "w.safetensors.json"))
    assert weights == record


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


@torch.no_grad()
def test_the_exported_encoder_of_an_autoencoder_gives_the_same_features(tmp_path):
    config = {"backbone": "vqae-small", "channels": 1, "reconstruct.codes": 16}
    module = Denoise(resolve("denoise", overrides=config), 8).eval()
    about = {"preprocess": preprocess(0.0, 1.0, 1, size=64), "config": {"backbone": "vqae-small"}}
    torch.save({"state_dict": module.state_dict(), "lim_gpu": about}, tmp_path / "last.ckpt")
    outcome = export(tmp_path / "last.ckpt", tmp_path / "w.safetensors")
    assert outcome.values["backbone"] == "vqae-small"
    line = next(line for line in outcome.lines if line.startswith("lim_gpu: "))
    build, _, load = line.removeprefix("lim_gpu: ").rpartition(".load_state_dict")
    other = eval(build, {"lim_gpu": lim_gpu}).eval()  # what users are told
    eval(f"other.load_state_dict{load}", {"other": other, "state": load_file(tmp_path / "w.safetensors")})
    images = torch.rand(2, 1, 24, 32)
    assert torch.equal(other(images), module.embed(images))
    again = load_network(tmp_path / "w.safetensors", torch.device("cpu"))
    assert torch.equal(again(images), module.embed(images))
    assert again.preprocess == about["preprocess"]


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:mobilenetv3_small_050"])  # fc, classifier
@torch.no_grad()
def test_a_fine_tuned_network_of_timm_loads_there_with_its_classifier(tmp_path, name):
    network = Classifier(name, 1, 2).eval()
    about = {"method": "finetune", "backbone": name, "classes": ["a", "b"], "preprocess": preprocess(0.5, 0.5, 1)}
    torch.save({"state_dict": network.state_dict(), "lim_gpu": about}, tmp_path / "best.ckpt")
    outcome = export(tmp_path / "best.ckpt", tmp_path / "w.safetensors")
    import timm

    line = next(line for line in outcome.lines if line.startswith("timm: "))
    build, _, load = line.removeprefix("timm: ").rpartition(".load_state_dict")
    other = eval(build, {"timm": timm}).eval()  # what users are told
    eval(f"other.load_state_dict{load}", {"other": other, "state": load_file(tmp_path / "w.safetensors")})
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(other(images), network(images))
