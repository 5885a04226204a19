"""A segmentation on procedural images: it learns where the discs are, reports, stands, compares; from any backbone."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("monai")

from finetunings import QUIET, read, request
from lim_gpu.cli import cli
from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.run import finetune
from lim_gpu.finetune.segmenting import dice_and_cross_entropy
from lim_gpu.finetune.unet import UNet
from lim_gpu.report.run_report import write_run_report
from stores import make_store


@pytest.fixture
def discs(tmp_path):
    """24 images of 36 x 40 with a bright disc each, of 12 patients; its mask is the disc; one has none."""
    folder = tmp_path / "discs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:36, :40]
    rows = []
    for n in range(24):
        cy, cx = rng.integers(10, 26, 2)
        disc = ((y - cy) ** 2 + (x - cx) ** 2 < 64) & (n != 7)
        grey = (rng.normal(70, 10, disc.shape) + 110 * disc).clip(0, 255)
        Image.fromarray(grey.astype(np.uint8)).save(folder / f"{n}.png")
        Image.fromarray((disc * 200).astype(np.uint8)).save(folder / f"{n}_mask.png")
        rows.append({"file": f"{n}.png", "mask": f"{n}_mask.png", "patient": n // 2})
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def asked(folder, **options) -> Request:
    return request(folder, task="segmentation", **({"folds": 2, "epochs": 1} | options))


def test_it_learns_and_every_file_says_so(discs, tmp_path):
    outcome = finetune(asked(discs, epochs=8, head_epochs=0, lr=3e-3), tmp_path / "run", "cpu", QUIET)
    results = read(tmp_path / "run/results.json")
    assert results["dice"]["mean"] > 0.6  # 0.77; marking everything gives 0.25
    for name in ("dice", "iou"):
        low, high = results[name]["interval"]
        assert low <= results[name]["mean"] <= high
    assert (results["empty"], results["task"]) == (1, "segmentation")
    assert outcome.values["dice"] == results["dice"]
    with open(tmp_path / "run/overlaps.csv") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == 24
    assert [row["file"] for row in rows if not row["dice"]] == ["7.png"]
    for run in (0, 1):
        own = [float(row["dice"]) for row in rows if row["run"] == str(run) and row["dice"]]
        assert results["dice"]["runs"][run] == pytest.approx(np.mean(own), abs=1e-6)
    patients = [{int(row["file"][:-4]) // 2 for row in rows if row["run"] == str(run)} for run in (0, 1)]
    assert not patients[0] & patients[1]
    history = read(tmp_path / "run/runs/0/candidate-0/training.json")["history"]
    assert len(history) == 8
    assert {len(entry["val_dice_interval"] or ()) for entry in history} <= {0, 2}
    with Image.open(tmp_path / "run/overlays.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((44, 160, 44), (214, 39, 40)):
        assert (np.abs(colours - colour).sum(axis=1) < 60).any()
    write_run_report([tmp_path / "run"], tmp_path / "report.html")
    assert "outlines of the truth" in (tmp_path / "report.html").read_text()
    again = finetune(asked(discs, epochs=8, head_epochs=0, lr=3e-3), tmp_path / "run", "cpu", QUIET)
    assert again.values["unchanged"]


def test_two_runs_are_compared_patient_by_patient(discs, weights, tmp_path):
    finetune(asked(discs), tmp_path / "random", "cpu", QUIET)
    own = request(discs, weights[:1], task="segmentation", folds=2, epochs=1)
    outcome = finetune(own, tmp_path / "own", "cpu", QUIET, against=tmp_path / "random")
    compared = outcome.values["comparison"]
    pairs = [read(tmp_path / name / "results.json")["dice"]["runs"] for name in ("own", "random")]
    assert compared["dice"]["runs"] == pytest.approx(np.subtract(*pairs))
    assert compared["dice"]["interval"][0] <= compared["dice"]["mean"] <= compared["dice"]["interval"][1]
    assert outcome.lines[-1].startswith("IoU")


def test_the_weights_of_a_checkpoint_are_those_that_it_begins_with(discs, weights, tmp_path):
    from lim_gpu.finetune.starts import read_starts
    from lim_gpu.weights.file import CheckpointFile

    own = request(discs, weights[:1], task="segmentation")
    (start,) = read_starts(own, [CheckpointFile(weights[0])], QUIET)
    network, other = start.unet(3), start.unet(3)
    held = torch.load(weights[0])["state_dict"]
    assert all(torch.equal(value, held[f"encoder.{name}"]) for name, value in network.encoder.state_dict().items())
    assert all(torch.equal(one, two) for one, two in zip(network.parameters(), other.parameters(), strict=True))


def test_a_network_of_timm_segments_and_begins_from_its_own_checkpoint(discs, tmp_path):
    name = "timm:mobilenetv3_small_050"
    finetune(asked(discs, backbone=name), tmp_path / "run", "cpu", QUIET)
    best = tmp_path / "run/runs/0/candidate-0/best.ckpt"
    outcome = finetune(asked(discs, checkpoints=[best], backbone=None), tmp_path / "more", "cpu", QUIET)
    assert outcome.values["start"] == [str(best)]


def called(*arguments):
    """The program as the command line calls it."""
    result = CliRunner().invoke(cli, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output


def test_the_down_branch_of_an_autoencoder_segments_from_the_command_line(discs, tmp_path):
    """What denoise learnt is what the training begins with."""
    store, run = make_store(tmp_path, (("chest", 8, 32, 32),)), tmp_path / "denoise"
    tiny = ("--epochs", 1, "--batch-size", 4, "--set", "reconstruct.size=16", "--set", "reconstruct.codes=16")
    called("pretrain", store, "--method", "denoise", "--backbone", "vqae-small", *tiny, "-o", run)
    learnt = torch.load(run / "last.ckpt")["state_dict"]
    how = ("--task", "segmentation", "--runs", 1, "--epochs", 1, "--head-epochs", 1, "--size", 32)
    called("finetune", discs, *how, "--checkpoint", run / "last.ckpt", "-o", tmp_path / "seg")
    assert 0 <= read(tmp_path / "seg/results.json")["dice"]["mean"] <= 1
    held = torch.load(tmp_path / "seg/runs/0/candidate-0/best.ckpt")["state_dict"]
    encoder = {name: value for name, value in held.items() if name.startswith("encoder.")}
    assert len(encoder) == sum(name.startswith("encoder.") for name in learnt)
    assert all(torch.equal(value, learnt[name]) for name, value in encoder.items())  # the decoder alone has trained


@pytest.mark.parametrize("name", ["vqae-small", "timm:test_resnet"])
def test_a_u_net_of_any_backbone_gives_a_logit_a_pixel(name):
    assert UNet(name, 1).eval()(torch.randn(1, 1, 33, 46)).shape == (1, 1, 33, 46)


def test_a_u_net_takes_any_size_and_its_loss_is_dice_and_cross_entropy():
    torch.manual_seed(0)
    network = UNet("resnet18", 1).eval()
    logits = network(torch.randn(2, 1, 41, 70))
    assert logits.shape == (2, 1, 41, 70)
    masks = (torch.rand(logits.shape) > 0.5).float()
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * masks).sum() + 1e-5) / (p.sum() + masks.sum() + 1e-5)
    entropy = -(masks * torch.log(p) + (1 - masks) * torch.log(1 - p)).mean()
    torch.testing.assert_close(dice_and_cross_entropy(logits, masks), dice + entropy)


def test_the_first_phase_leaves_the_backbone_as_it_is(discs, tmp_path):
    finetune(asked(discs, folds=None, runs=1, epochs=1, head_epochs=1), tmp_path / "run", "cpu", QUIET)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = UNet("resnet18", 3).state_dict()
    after = torch.load(tmp_path / "run/runs/0/candidate-0/best.ckpt")["state_dict"]
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder", "head"}


def test_a_mask_of_another_size_and_one_that_is_missing_are_named(discs, tmp_path):
    Image.fromarray(np.zeros((40, 36), dtype=np.uint8)).save(discs / "3_mask.png")
    with pytest.raises(InputError, match=r"3_mask.png: is 40 x 36, and its image 3.png 36 x 40"):
        finetune(asked(discs), tmp_path / "run", "cpu", QUIET)
    (discs / "3_mask.png").unlink()
    with pytest.raises(InputError, match="line 5: there is no mask 3_mask.png"):
        finetune(asked(discs), tmp_path / "run", "cpu", QUIET)


def test_what_belongs_to_classes_is_refused(discs):
    for options in ({"positive": "a"}, {"choose": "auc"}):
        with pytest.raises(UsageError, match="classification"):
            asked(discs, **options)
