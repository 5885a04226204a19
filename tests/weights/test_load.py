"""Checkpoints of every maker, synthesised: the same backbone comes out of each, to the last tensor; nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lim_gpu.cli.info import describe
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.progress import Reporter
from lim_gpu.weights import load as checkpoint
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.load import load_backbone, unsafe_globals

QUIET = Reporter(quiet=True)
HEAD = torch.zeros(3, 4)
PLACES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


@pytest.fixture(scope="module")
def state():
    """A resnet18 whose every tensor is its own, batch norm statistics included."""
    torch.manual_seed(3)
    network = resnet("resnet18").train()
    with torch.no_grad():
        network(torch.rand(4, 3, 32, 32))
    return network.eval().state_dict()


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def numbered(prefix, state):
    return {f"{prefix}{PLACES[name.split('.')[0]]}.{name.partition('.')[2]}": v for name, v in state.items()}


FOREIGN = {
    "lim-gpu": lambda s: {"state_dict": under("encoder.", s) | under("key_encoder.", s) | {"head.weight": HEAD}},
    "SwAV of Wolf et al.": lambda s: {
        "state_dict": under("model.", s) | {"model.projection_head.0.weight": HEAD, "model.prototypes.weight": HEAD}
    },
    "MoCo of Wolf et al.": lambda s: {
        "state_dict": under("encoder_k.", under("", {k: v + 1 for k, v in s.items()}))
        | under("encoder_q.", s)
        | {"encoder_q.fc.0.weight": HEAD, "queue": HEAD, "val_queue": HEAD}
    },
    "BYOL of Wolf et al.": lambda s: {
        "state_dict": under("online_network.encoder.", s)
        | {"online_network.projector.0.weight": HEAD}
        | under("target_network.encoder.", {k: v + 1 for k, v in s.items()})
    },
    "SparK": lambda s: {"module": dict(s), "arch": "resnet18", "is_pretrain": True},
    "SwAV of facebookresearch": lambda s: under("module.", s) | {"module.prototypes.weight": HEAD},
    "MoCo of facebookresearch": lambda s: {
        "epoch": 200,
        "state_dict": under("module.encoder_q.", s) | under("module.encoder_k.", s) | {"module.queue": HEAD},
        "optimizer": {"param_groups": [{"lr": 0.03, "params": [0]}]},
    },
    "lightly": lambda s: {"state_dict": under("backbone.", s) | {"online_classifier.weight": HEAD}},
    "fine-tuned by Wolf et al., or lightly's example": lambda s: {
        "state_dict": numbered("backbone.", s) | {"classifier.weight": HEAD}
    },
    "torchvision names": lambda s: s | {"fc.weight": HEAD, "fc.bias": HEAD},
}


@pytest.mark.parametrize("source", FOREIGN)
def test_every_layout_gives_the_same_backbone(tmp_path, state, source):
    torch.save(FOREIGN[source](state), tmp_path / "c.ckpt")
    backbone = load_backbone(tmp_path / "c.ckpt")
    assert (backbone.name, backbone.channels, backbone.source) == ("resnet18", 3, source)
    assert list(backbone.state) == list(resnet("resnet18").state_dict())
    assert all(torch.equal(backbone.state[name], value) for name, value in state.items())
    assert backbone.preprocess["stated"] is False


def test_sparks_own_layout(tmp_path, state):
    torch.save(
        {"module": under("sparse_encoder.sp_cnn.", state) | {"densify_norms.0.weight": HEAD}}, tmp_path / "s.pth"
    )
    assert load_backbone(tmp_path / "s.pth").source == "SparK"


def test_what_a_maker_normalised_by_is_known(tmp_path, state):
    torch.save(FOREIGN["SwAV of Wolf et al."](state), tmp_path / "c.ckpt")
    assert load_backbone(tmp_path / "c.ckpt").preprocess["mean"] == [0.1806] * 3
    torch.save(FOREIGN["SparK"](state), tmp_path / "c.ckpt")
    assert load_backbone(tmp_path / "c.ckpt").preprocess["mean"] == [0.485, 0.456, 0.406]


def test_the_json_beside_says_how_images_were_made(tmp_path, state):
    torch.save(FOREIGN["lim-gpu"](state), tmp_path / "c.ckpt")
    (tmp_path / "c.ckpt.json").write_text(json.dumps({"preprocess": {"mean": [0.3], "std": [0.2]}}))
    assert load_backbone(tmp_path / "c.ckpt").preprocess == {"mean": [0.3], "std": [0.2]}


def test_a_resnet50_has_318_tensors(tmp_path):
    torch.save({"state_dict": under("model.", resnet("resnet50").state_dict())}, tmp_path / "c.ckpt")
    backbone = load_backbone(tmp_path / "c.ckpt", expected="resnet50")
    assert len(backbone.state) == 318
    assert sum(name.endswith("num_batches_tracked") for name in backbone.state) == 53


def test_one_channel_and_half_precision(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in resnet("resnet18", 1).state_dict().items()}
    torch.save(state, tmp_path / "c.pth")
    backbone = load_backbone(tmp_path / "c.pth")
    assert backbone.channels == 1
    assert backbone.state["conv1.weight"].dtype == torch.float32


def fails(path, *words, **options):
    with pytest.raises(InputError) as error:
        load_backbone(path, **options)
    text = str(error.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text, text


def test_another_backbone_is_named_with_what_is_missing(tmp_path, state):
    torch.save(under("encoder.", state), tmp_path / "c.ckpt")
    words = ("holds resnet18, not resnet50", "missing", "layer1.0.bn3.bias", "of another shape", "--backbone resnet18")
    fails(tmp_path / "c.ckpt", *words, expected="resnet50")


def test_tensors_that_are_missing_or_unexpected_are_listed(tmp_path, state):
    broken = {name: value for name, value in state.items() if name != "layer4.1.bn2.running_var"}
    broken |= {"layer4.2.conv1.weight": HEAD, "bn1.weight": torch.ones(7)}
    torch.save({"state_dict": under("model.", broken)}, tmp_path / "c.ckpt")
    words = ("118 of 120", "missing 1: layer4.1.bn2.running_var", "unexpected 1: layer4.2.conv1.weight")
    fails(tmp_path / "c.ckpt", *words, "another shape 1: bn1.weight (7,)", "SwAV of Wolf et al.")


@pytest.mark.parametrize(
    ("content", "word"),
    [([1, 2], "list"), ({"epoch": 3}, "no tensor of a torchvision ResNet"), ({"a.b": HEAD}, "'encoder_q.'")],
)
def test_what_is_no_checkpoint(tmp_path, content, word):
    torch.save(content, tmp_path / "c.ckpt")
    fails(tmp_path / "c.ckpt", word)


def test_another_kind_of_file_is_told_in_few_words(tmp_path):
    (tmp_path / "s.csv").write_text("volume,slice\n")
    fails(tmp_path / "s.csv", "cannot be read as a checkpoint (not what torch.save wrote)")


def test_values_that_are_not_finite(tmp_path, state):
    torch.save(state | {"bn1.bias": torch.full((64,), torch.nan)}, tmp_path / "c.ckpt")
    fails(tmp_path / "c.ckpt", "bn1.bias", "not finite")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_truncated_file_is_one_line(tmp_path, state, share, suffix):
    path = tmp_path / f"c{suffix}"
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    fails(path, "cannot be read as a checkpoint")


def test_a_missing_file(tmp_path):
    fails(tmp_path / "none.ckpt", "cannot be read")


class Harmful:
    """Its unpickling makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_runs_something_is_named_and_not_run(tmp_path, state, zipped):
    path, made = tmp_path / "c.ckpt", tmp_path / "made"
    content = {"state_dict": under("model.", state), "callbacks": Harmful(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert unsafe_globals(path) == ["posix.mkdir"]
    fails(path, "posix.mkdir", "--trust")
    assert not made.exists()
    assert load_backbone(path, trust=True).name == "resnet18"
    assert made.exists()


def test_a_trusted_file_of_a_library_that_is_not_here(tmp_path, state, monkeypatch):
    module = type(sys)("pl_bolts_of_old")
    module.Thing = type("Thing", (), {"__module__": "pl_bolts_of_old", "__qualname__": "Thing"})
    monkeypatch.setitem(sys.modules, "pl_bolts_of_old", module)
    torch.save({"state_dict": state, "thing": module.Thing()}, tmp_path / "c.ckpt")
    monkeypatch.delitem(sys.modules, "pl_bolts_of_old")
    fails(tmp_path / "c.ckpt", "pl_bolts_of_old.Thing")
    fails(tmp_path / "c.ckpt", "pl_bolts_of_old", "not installed", trust=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("export")
    torch.save(FOREIGN["MoCo of Wolf et al."](state), folder / "c.ckpt")
    return folder, checkpoint.export(folder / "c.ckpt", folder / "w.safetensors")


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
    outcome = checkpoint.export(tmp_path / "c.ckpt", tmp_path / "w.safetensors")
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
    assert record["preprocess"] == checkpoint.preprocess(0.1806, 0.1907, 3, stated=False)
    assert record["checkpoint"]["source"] == "MoCo of Wolf et al."
    assert outcome.values["sha256"] == record["sha256"]
    again = load_backbone(folder / "w.safetensors")
    assert (again.name, again.preprocess) == ("resnet18", record["preprocess"])


def test_export_again_is_unchanged_and_another_is_refused(exported, tmp_path):
    folder, _ = exported
    before = (folder / "w.safetensors").stat().st_mtime_ns
    assert checkpoint.export(folder / "c.ckpt", folder / "w.safetensors").values["unchanged"]
    assert (folder / "w.safetensors").stat().st_mtime_ns == before
    torch.save(resnet("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="--overwrite"):
        checkpoint.export(tmp_path / "other.pth", folder / "w.safetensors")
    with pytest.raises(UsageError, match=".safetensors"):
        checkpoint.export(folder / "c.ckpt", tmp_path / "w.pth")
    plan = checkpoint.export(folder / "c.ckpt", tmp_path / "w.safetensors", dry_run=True)
    assert plan.values["dry_run"]
    assert not (tmp_path / "w.safetensors").exists()
    (folder / "w2.safetensors").write_bytes(b"something else")
    checkpoint.export(folder / "c.ckpt", folder / "w2.safetensors", overwrite=True)
    assert len(load_file(folder / "w2.safetensors")) == 120


def test_one_channel_is_exported_for_timm_and_monai(tmp_path):
    own = resnet("resnet18", 1).eval()
    torch.save({"state_dict": under("encoder.", own.state_dict())}, tmp_path / "c.ckpt")
    outcome = checkpoint.export(tmp_path / "c.ckpt", tmp_path / "w.safetensors")
    assert not any(line.startswith("torchvision") for line in outcome.lines)
    from timm import create_model

    timm = create_model("resnet18", num_classes=0, in_chans=1).eval()
    timm.load_state_dict(load_file(tmp_path / "w.safetensors"))
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(timm(image), own(image))


def test_info_of_ours_reads_the_json_alone_without_torch(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not even a checkpoint")
    about = {"format": "lim-gpu-checkpoint", "version": 1, "method": "swav", "backbone": "resnet50", "epoch": 7}
    about |= {"global_step": 70, "schedule": {"lr": 0.1}, "config": {"swav": {"queue": 3840}}}
    (tmp_path / "last.ckpt.json").write_text(json.dumps(about))
    description = describe(tmp_path / "last.ckpt", False, QUIET)
    assert description.lines[0].endswith("swav resnet50, epoch 7, global_step 70")
    assert "schedule lr 0.1" in description.lines
    assert description.values["config"]["swav"]["queue"] == 3840
    program = (
        "import sys; from lim_gpu.cli import cli\n"
        f"try: cli.main(['info', {str(tmp_path / 'last.ckpt')!r}], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_info_of_others_tells_the_schedule_their_weights_saw(tmp_path, state):
    content = FOREIGN["SwAV of Wolf et al."](state)
    content |= {"epoch": 799, "global_step": 141600, "hyper_parameters": {"start_lr": 0.3, "gpus": 1}}
    content |= {"lr_schedulers": [{"last_epoch": 141600, "_last_lr": [0.07]}]}
    content |= {"optimizer_states": [{"param_groups": [{"lr": 0.07, "weight_decay": 1e-6, "params": [0, 1]}]}]}
    torch.save(content, tmp_path / "c.ckpt")
    description = describe(tmp_path / "c.ckpt", False, QUIET)
    values = description.values
    assert (values["source"], values["backbone"], values["tensors"]) == ("SwAV of Wolf et al.", "resnet18", 120)
    assert values["schedule"] == {"last_epoch": 141600, "_last_lr": [0.07]}
    assert values["optimizer"]["0"]["lr"] == 0.07
    assert values["configuration"] == {"start_lr": 0.3, "gpus": 1}
    json.dumps(values, allow_nan=False)
    assert "global_step 141600" in description.lines


def test_info_of_an_incomplete_backbone_says_what_is_missing(tmp_path, state):
    torch.save(dict(list(state.items())[:-1]), tmp_path / "c.pth")
    description = describe(tmp_path / "c.pth", False, QUIET)
    assert description.values["complete"] is False
    assert "119 of 120" in description.lines[2]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(exported, tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_arguments, **_options):
        raise SafetensorError("No space left on device (os error 28)")

    folder, _ = exported
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    (tmp_path / "w.safetensors").write_bytes(b"before")
    with pytest.raises(LimGpuError, match="w.safetensors: cannot be written: No space left"):
        checkpoint.export(folder / "c.ckpt", tmp_path / "w.safetensors", overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("w.safetensors", b"before")]
