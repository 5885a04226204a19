"""Pre-training of networks of timm: what it leaves goes through every later stage, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from finetunings import request
from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.starts import read_starts
from lim_gpu.inference.embed import embed
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Reporter
from lim_gpu.similarity import similarity_matrix
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.describe import describe_checkpoint
from lim_gpu.weights.export import export
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import load_backbone
from pretrainings import TINY, arguments, losses

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = Reporter(quiet=True)
NAME = "timm:test_byobnet"  # 0.2 million parameters; its batch norms activate
WIDTH = 256


def options(method, backbone=NAME, **more):
    overrides = {"channels": 1, "mean": (0.18,), "std": (0.19,)} | more.pop("overrides", {})
    return arguments(method, overrides=overrides, **{"epochs": 2, "checkpoint_every": 1, **more}) | {
        "backbone": backbone
    }


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """Two epochs of MoCo with split batch norm."""
    folder = tmp_path_factory.mktemp("timm") / "run"
    pretrain(store, "moco", output=folder, **options("moco"))
    return folder


@pytest.fixture(scope="module")
def network(run):
    """timm's own network with what was learnt."""
    state = torch.load(run / "last.ckpt")["state_dict"]
    own = timm.create_model("test_byobnet", num_classes=0, in_chans=1).eval()
    own.load_state_dict({key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")})
    return own


@pytest.mark.parametrize(
    ("method", "backbone"),
    [("swav", "timm:test_resnet"), ("rotation", NAME), ("flip", "timm:test_convnext"), ("moco", "timm:test_vit")],
)
def test_every_method_of_any_backbone_trains_one_of_timm(store, tmp_path, method, backbone):
    pretrain(store, method, output=tmp_path / "run", **options(method, backbone, epochs=1))
    assert all(np.isfinite(loss) for _, _, loss in losses(tmp_path / "run"))
    found = load_backbone(tmp_path / "run/last.ckpt")
    assert (found.name, found.channels) == (backbone, 1)


def test_a_resumed_run_repeats_itself_to_the_bit(store, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for ending in ("", ".json"):
        (again / f"epoch=1.ckpt{ending}").replace(again / f"last.ckpt{ending}")
    pretrain(store, "moco", output=again, resume=True, **options("moco"))
    assert losses(again) == losses(run)
    states = [torch.load(folder / "last.ckpt")["state_dict"] for folder in (again, run)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_another_run_begins_with_it(store, run, tmp_path):
    begun = options("flip", epochs=1, overrides={"lr": 1e-12})
    pretrain(store, "flip", output=tmp_path / "more", init=run / "last.ckpt", **begun)
    first, more = (torch.load(path / "last.ckpt")["state_dict"] for path in (run, tmp_path / "more"))
    torch.testing.assert_close(more["encoder.stem.bn.weight"], first["encoder.stem.bn.weight"])


@torch.no_grad()
def test_what_is_exported_loads_in_timm_as_the_line_says(run, network, tmp_path):
    outcome = export(run / "last.ckpt", tmp_path / "w.safetensors")
    line = next(line for line in outcome.lines if line.startswith("timm: "))
    build, _, load = line.removeprefix("timm: ").rpartition(".load_state_dict")
    loaded = eval(build).eval()  # what users are told
    eval(f"loaded.load_state_dict{load}", {"loaded": loaded, "state": load_file(tmp_path / "w.safetensors")})
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(loaded(images), network(images))
    again = load_backbone(tmp_path / "w.safetensors")  # named by the JSON beside it
    assert (again.name, again.channels, again.preprocess) == (NAME, 1, load_backbone(run / "last.ckpt").preprocess)


def test_fine_tuning_begins_with_it(run, network):
    (start,) = read_starts(request("data", [run / "last.ckpt"]), [CheckpointFile(run / "last.ckpt")], QUIET)
    assert (start.backbone, start.channels, start.normalisation.mean) == (NAME, 1, (0.18,))
    encoder = start.network(2, seed=0).encoder.eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(encoder(images), network(images))


def test_features_of_a_store_are_its_own(store, run, network, tmp_path):
    embed(store, run / "last.ckpt", tmp_path / "f.npy", device="cpu", reporter=QUIET)
    found = np.load(tmp_path / "f.npy")
    assert found.shape == (35, WIDTH)
    assert np.ptp(found, axis=0).max() > 0


@torch.no_grad()
def test_deepnet_compares_its_features(store, run, network):
    with SliceStore(store) as opened:
        grey = Intensity().to_uint8(next(iter(opened)).read()[:3])
    found = similarity_matrix(grey, "deepnet", weights=run / "last.ckpt", device="cpu")
    pixels = torch.from_numpy(grey)[:, None] / 255
    resized = torch.nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
    unit = torch.nn.functional.normalize(network((resized - 0.18) / 0.19).double(), dim=1)
    np.testing.assert_allclose(found, (unit @ unit.T).numpy(), atol=1e-4)


def test_a_checkpoint_tells_its_network_without_the_json_beside_it(run, tmp_path):
    shutil.copy(run / "last.ckpt", tmp_path / "moved.ckpt")
    values, lines = describe_checkpoint(tmp_path / "moved.ckpt")
    assert (values["backbone"], values["channels"], values["complete"]) == (NAME, 1, True)
    assert values["tensors"] == len(load_backbone(tmp_path / "moved.ckpt").state)
    assert any(NAME in line for line in lines)
    content = torch.load(run / "last.ckpt")
    del content["state_dict"]["encoder.stem.bn.weight"]
    torch.save(content, tmp_path / "cut.ckpt")
    with pytest.raises(InputError, match=r"tensors of timm:test_byobnet match; not stem.bn.weight"):
        describe_checkpoint(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    ("method", "backbone", "overrides", "message"),
    [
        ("spark", NAME, {}, "spark masks the four maps of torchvision's ResNets, not timm:test_byobnet"),
        ("masked", NAME, {}, "masked trains an autoencoder, not timm:test_byobnet. Give --backbone vqae or vqae-small"),
        ("moco", "timm:test_resnett", {}, "timm has no such network. Did you mean timm:test_resnet"),
        ("swav", "timm:test_vit3", {"swav.large_size": 160}, r"takes no images of 32 pixels \(Input height"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(store, tmp_path, method, backbone, overrides, message):
    for dry_run in (True, False):
        given = options(method, backbone, overrides=overrides)
        with pytest.raises(UsageError, match=message) as caught:
            pretrain(store, method, output=tmp_path / "run", dry_run=dry_run, **given)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backbone", [NAME, "vqae-small"])
def test_no_weights_are_downloaded(store, tmp_path, monkeypatch, backbone):
    monkeypatch.setattr("timm.create_model", lambda *_, **how: pytest.fail("made") if how.get("pretrained") else None)
    with pytest.raises(UsageError, match=rf"--init imagenet is of torchvision's ResNets, not of {backbone}"):
        pretrain(store, "rotation", output=tmp_path / "run", init="imagenet", **options("rotation", backbone))


def test_the_plan_names_the_network(store, tmp_path):
    outcome = pretrain(store, "moco", output=tmp_path / "run", dry_run=True, **options("moco"))
    assert outcome.lines[0].startswith("moco (recommended) of timm:test_byobnet, 1 channel,")
    assert json.loads(json.dumps(outcome.values))["config"]["backbone"] == NAME
    assert set(TINY["moco"]) <= {f"moco.{key}" for key in outcome.values["config"]["moco"]} | {"lr"}
