"""How runs end when something is wrong: one line, and the checkpoint before stands."""

from __future__ import annotations

import json
import math
import resource

import pytest
import torch

from lim_gpu.errors import InputError, LimGpuError, NoGpuError, UsageError
from lim_gpu.pretrain import callbacks
from lim_gpu.pretrain.callbacks import Keeper
from lim_gpu.pretrain.run import pretrain
from lim_gpu.pretrain.swav import SwAV
from lim_gpu.progress import Reporter
from pretrainings import STEPS, arguments, losses

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_full_disk_keeps_the_checkpoint_before(finished, store, tmp_path, monkeypatch, capsys):
    """The system itself refuses: files may not grow beyond a megabyte while the second epoch is saved."""
    save, (soft, hard) = Keeper.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(self, trainer, module):
        if trainer.global_step == 2 * STEPS:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
        try:
            save(self, trainer, module)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(Keeper, "save", on_a_full_disk)
    monkeypatch.setattr(callbacks, "SAVE_SECONDS", 0)
    with pytest.raises(LimGpuError, match=r"last.ckpt: cannot be written: File too large") as caught:
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav"))
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == STEPS
    assert not list((tmp_path / "run").glob(".*.tmp"))
    monkeypatch.undo()
    config = tmp_path / "run" / "config.json"
    began = config.read_text().replace('"device": "cpu"', '"device": "cuda:0"')
    config.write_text(began.replace('"processes": 1', '"processes": 2'))
    options = arguments("swav", resume=True, reporter=Reporter())
    pretrain(store, "swav", output=tmp_path / "run", **options)
    assert losses(tmp_path / "run") == losses(finished / "swav")
    said = capsys.readouterr().err
    assert "warning: began with device cuda:0, goes on with cpu: its losses will differ" in said
    assert "warning: began with 2 processes, goes on with 1: every step has the same slices, but other crops" in said
    assert "batch norm sees 8 of them at once, not 4" in said


def test_a_loss_that_is_no_number_stops_with_a_dump(store, tmp_path, monkeypatch):
    loss = SwAV.loss

    def spoiled(self, views, batch):
        found = loss(self, views, batch)
        return found | {"loss": found["loss"] * (math.nan if self.global_step == 6 else 1)}

    monkeypatch.setattr(SwAV, "loss", spoiled)
    monkeypatch.setattr(callbacks, "SAVE_SECONDS", 0)
    with pytest.raises(LimGpuError, match=r"the loss is nan at epoch 1, step 6, with lr .* nonfinite.json"):
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav"))
    dump = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert dump["row"]["step"] == 6
    assert dump["row"]["loss"] is None
    assert len(dump["slices"]) == 8
    assert [row["step"] for row in dump["last_rows"]] == list(range(7))
    assert "encoder.conv1.weight" in dump["unsound"]
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == STEPS  # of the sound epoch
    assert len(losses(tmp_path / "run")) == 6


def test_memory_that_ends_in_a_step_is_one_line(store, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(SwAV, "loss", full)
    with pytest.raises(LimGpuError, match="cpu: a step of 8 slices does not fit in its memory. Give a smaller"):
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 36}, UsageError, "--batch-size 36 is more than the 35 slices"),
        ({"preset": "best"}, UsageError, "preset 'best' is unknown"),
        ({"overrides": {"swav.k": 3}}, UsageError, "setting 'swav.k' is unknown"),
        ({"overrides": {"epochs": 3}}, UsageError, "epochs is given twice"),
        ({"checkpoint_every": 0}, UsageError, "--checkpoint-every 0 is too small"),
        ({"backbone": "vgg16"}, UsageError, "vgg16"),
        ({"selection": "nowhere.csv"}, InputError, "nowhere"),
        ({"probe": "nowhere.csv"}, InputError, "nowhere.csv: cannot be read"),
        ({"wandb": "project"}, UsageError, r"pip install 'lim-gpu\[wandb\]'"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_bad_call_is_one_line(store, tmp_path, options, error, message, dry_run):
    if "wandb" in options and __import__("importlib.util").util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(error, match=message) as caught:
        pretrain(store, "swav", output=tmp_path / "run", dry_run=dry_run, **arguments("swav", **options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_gpu_that_is_not_there(store, tmp_path, dry_run):
    with pytest.raises(NoGpuError, match="no usable NVIDIA GPU"):
        pretrain(store, "swav", output=tmp_path / "run", dry_run=dry_run, **arguments("swav", device="cuda"))
