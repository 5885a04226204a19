"""Whole tiny runs: what they leave, how they go on after a kill, and how they end when something is wrong."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import lim_gpu
from lim_gpu.errors import InputError, LimGpuError, NoGpuError, UsageError
from lim_gpu.pretrain.callbacks import Keeper
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.plan import rank
from lim_gpu.pretrain.run import pretrain
from lim_gpu.pretrain.swav import SwAV
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.load import load_backbone
from pretrainings import EPOCHS, STEPS, Killing, arguments, losses, rows

METHODS = ("swav", "moco", "spark")
TOTAL = EPOCHS * STEPS


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the killed processes have, so that sums are made in one order
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """An uninterrupted run of every method."""
    folder = tmp_path_factory.mktemp("finished")
    for method in METHODS:
        pretrain(store, method, output=folder / method, **arguments(method))
    return folder


@pytest.fixture(scope="module")
def killing():
    process = Killing()
    yield process
    process.close()


def test_what_a_run_leaves(finished):
    run = finished / "swav"
    names = {path.name for path in run.iterdir()}
    assert {"last.ckpt", "epoch=3.ckpt", "metrics.jsonl", "config.json", "plan.txt", "tensorboard"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    found = rows(run)
    assert [(row["epoch"], row["step"]) for row in found] == [(i // STEPS, i) for i in range(TOTAL)]
    assert all(math.isfinite(row["loss"]) for row in found)
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["swav"]["queue"] == 16
    assert record["precision"] == "32-true"
    plan = (run / "plan.txt").read_text()
    assert "3 epochs of 4 steps of 8 slices: 12 steps" in plan
    assert "images a second" in plan
    assert list((run / "tensorboard").glob("events*"))


@pytest.mark.parametrize("method", METHODS)
def test_the_checkpoint_is_plain_and_complete(finished, method):
    state = torch.load(finished / method / "last.ckpt", weights_only=True)
    assert (state["epoch"], state["global_step"]) == (EPOCHS, TOTAL)
    assert sum(name.startswith("encoder.") for name in state["state_dict"]) == 120  # resnet18 without fc
    sidecar = json.loads((finished / method / "last.ckpt.json").read_text())
    assert (sidecar["method"], sidecar["epoch"], sidecar["finished"]) == (method, EPOCHS, True)
    assert sidecar["config"] == state["lim_gpu"]["config"]
    assert sidecar["schedule"]["last"] < sidecar["schedule"]["peak"]
    backbone = load_backbone(finished / method / "last.ckpt", expected="resnet18")
    assert len(backbone.state) == 120
    assert backbone.preprocess == sidecar["preprocess"] == state["lim_gpu"]["preprocess"]
    assert backbone.preprocess["stated"]
    assert sidecar["sha256"] == backbone.sha256


def test_lightning_loads_the_checkpoint_too(finished):
    path = finished / "swav" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    config = PretrainConfig.from_dict(state["lim_gpu"]["config"])
    module = SwAV.load_from_checkpoint(path, config=config, slices=35)
    assert torch.equal(module.state_dict()["encoder.conv1.weight"], state["state_dict"]["encoder.conv1.weight"])


GOLDEN = {"swav": (3.626702, 3.987371), "moco": (0.0, 2.396264), "spark": (1.71273, 1.629034)}


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_before_and_after_the_first_update_are_the_golden_ones(finished, method):
    """Instruction sets are 3e-5 apart here, and 8e-3 a step later; `test_golden.py` goes further, in float64."""
    assert [loss for _, _, loss in losses(finished / method)][:2] == pytest.approx(GOLDEN[method], rel=1e-3)


def test_a_finished_run_is_unchanged(finished, store):
    before = (finished / "swav" / "last.ckpt").stat().st_mtime_ns
    for resume in (False, True):
        outcome = pretrain(store, "swav", output=finished / "swav", resume=resume, **arguments("swav"))
        assert outcome.values["unchanged"]
    assert (finished / "swav" / "last.ckpt").stat().st_mtime_ns == before


def test_swav_repeats_itself_to_the_bit_after_five_kills(finished, store, tmp_path, killing):
    """Before the first checkpoint, within one, between two, in the middle of an epoch, and at the very end."""
    run = tmp_path / "run"
    points = [("batch", 3), ("torn", 4), ("between", 8), ("batch", 10), ("written", TOTAL)]
    for resume, (where, step) in enumerate(points):
        assert killing.run(store, run, "swav", where, step, resume=bool(resume)) == -signal.SIGKILL
    pretrain(store, "swav", output=run, resume=True, **arguments("swav", checkpoint_every=1))
    assert losses(run) == losses(finished / "swav")
    last, expected = (torch.load(folder / "last.ckpt") for folder in (run, finished / "swav"))
    for name, value in expected["state_dict"].items():
        assert torch.equal(last["state_dict"][name], value), name
    assert not list(run.glob(".*.tmp"))
    assert json.loads((run / "last.ckpt.json").read_text())["finished"]


@pytest.mark.parametrize("method", ["moco", "spark"])
def test_the_others_repeat_themselves_to_the_bit_after_three_kills(finished, store, tmp_path, killing, method):
    """Before the first checkpoint, in the middle of an epoch, and within a checkpoint."""
    run = tmp_path / "run"
    for resume, (where, step) in enumerate([("batch", 2), ("batch", 6), ("torn", 8)]):
        assert killing.run(store, run, method, where, step, resume=bool(resume)) == -signal.SIGKILL
    pretrain(store, method, output=run, resume=True, **arguments(method, checkpoint_every=1))
    assert losses(run) == losses(finished / method)


@pytest.mark.parametrize("method", ["swav", "spark"])
def test_the_loss_falls(finished, method):
    found = [loss for _, _, loss in losses(finished / method)]
    assert sum(found[-STEPS:]) < 0.96 * sum(found[:STEPS])


def test_the_loss_of_moco_falls_once_its_queue_is_full(store, tmp_path):
    pretrain(store, "moco", output=tmp_path / "run", **arguments("moco", epochs=10))
    found = [loss for _, _, loss in losses(tmp_path / "run")]
    assert sum(found[-2 * STEPS :]) < 0.97 * sum(found[STEPS : 3 * STEPS])  # 0.945 here


def test_streamed_slices_give_the_same_losses(finished, store, tmp_path, capsys):
    pretrain(store, "moco", output=tmp_path / "run", **arguments("moco", stream=True, reporter=Reporter()))
    assert "35 slices (0.00 GiB) stream from the store" in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(finished / "moco")


def command(store, run, *more):
    options = arguments("swav")
    overrides = [text for name, value in options["overrides"].items() for text in ("--set", f"{name}={value}")]
    given = ["--epochs", str(EPOCHS), "--batch-size", "8", "--backbone", "resnet18", "--device", "cpu"]
    return [
        *("-m", "lim_gpu.cli", "pretrain", str(store), "--method", "swav", *given, *overrides),
        "-o",
        str(run),
        *more,
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_in_the_middle_of_an_epoch(finished, store, tmp_path, number, code):
    run = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command(store, run)], stderr=subprocess.PIPE, env=environment)
    until = time.monotonic() + 800
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 5:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    text = process.communicate(timeout=800)[1].decode()
    assert process.returncode == code
    assert "Go on with --resume" in text
    assert "Traceback" not in text
    step = torch.load(run / "last.ckpt")["global_step"]
    assert 5 <= step < TOTAL
    assert len(losses(run)) == step
    pretrain(store, "swav", output=run, resume=True, **arguments("swav"))
    assert losses(run) == losses(finished / "swav")


def test_two_processes_train_as_one_run(store, tmp_path):
    """torchrun with gloo: one folder, written once, the losses of one run; and both agree that it is finished."""
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for expected in (False, True):
        line = [*torchrun, *command(store, run, "--json")]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=800)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["unchanged"] is expected  # one object: only the first process speaks
    assert [(epoch, step) for epoch, step, _ in losses(run)] == [(i // STEPS, i) for i in range(TOTAL)]
    assert all(math.isfinite(loss) for _, _, loss in losses(run))
    assert torch.load(run / "last.ckpt")["global_step"] == TOTAL
    assert int(torch.load(run / "last.ckpt")["state_dict"]["encoder.bn1.num_batches_tracked"]) == 2 * TOTAL


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
    with pytest.raises(LimGpuError, match=r"last.ckpt: cannot be written: File too large") as caught:
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav"))
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == STEPS
    assert not list((tmp_path / "run").glob(".*.tmp"))
    monkeypatch.undo()
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    options = arguments("swav", resume=True, reporter=Reporter())
    pretrain(store, "swav", output=tmp_path / "run", **options)
    assert losses(tmp_path / "run") == losses(finished / "swav")
    assert "warning: began with device cuda:0, goes on with cpu: its losses will differ" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_with_a_dump(store, tmp_path, monkeypatch):
    loss = SwAV.loss

    def spoiled(self, views, batch):
        found = loss(self, views, batch)
        return found | {"loss": found["loss"] * (math.nan if self.global_step == 6 else 1)}

    monkeypatch.setattr(SwAV, "loss", spoiled)
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


def test_a_run_that_stands_is_not_touched(store, tmp_path, killing):
    run = tmp_path / "run"
    killing.run(store, run, "swav", "batch", 5)
    for options, message in (
        ({}, r"holds this run, saved at step 4 of 12. Give --resume to go on, or --overwrite"),
        ({"seed": 1}, r"made otherwise \(seed 0, not 1\). Give --overwrite, or another -o"),
        ({"resume": True, "epochs": 5}, r"made otherwise \(epochs 3, not 5\)"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrain(store, "swav", output=run, **arguments("swav", **options))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files. Give --overwrite, or another -o"):
        pretrain(store, "swav", output=tmp_path / "mine", **arguments("swav"))


def test_a_run_that_saved_nothing_is_in_nobodys_way(store, tmp_path, killing):
    run = tmp_path / "run"
    killing.run(store, run, "swav", "batch", 3)
    assert losses(run)
    pretrain(store, "swav", output=run, **arguments("swav", epochs=1, seed=1))
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == 1
    assert [step for _, step, _ in losses(run)] == list(range(STEPS))


def test_later_checkpoints_stay_when_the_last_is_gone(store, tmp_path, killing):
    run = tmp_path / "run"
    killing.run(store, run, "swav", "batch", 5)
    (run / "last.ckpt").unlink()
    for resume in (False, True):
        with pytest.raises(InputError, match=r"last.ckpt: is gone. Put an epoch=\*.ckpt"):
            pretrain(store, "swav", output=run, **arguments("swav", resume=resume))
    assert (run / "epoch=1.ckpt").exists()


def test_memory_that_ends_in_a_step_is_one_line(store, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(SwAV, "loss", full)
    with pytest.raises(LimGpuError, match="cpu: a step of 8 slices does not fit in its memory. Give a smaller"):
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav"))


def test_overwriting_leaves_nothing_of_the_run_before(store, tmp_path, killing):
    run = tmp_path / "run"
    killing.run(store, run, "swav", "batch", 6)
    options = arguments("swav", epochs=1, overwrite=True, log_every=3)
    pretrain(store, "swav", output=run, **options)
    assert sorted(path.name for path in run.glob("*.ckpt")) == ["epoch=1.ckpt", "last.ckpt"]
    assert [row["step"] for row in rows(run)] == [2, 3]


def test_a_damaged_checkpoint_is_one_line(store, tmp_path, killing):
    run = tmp_path / "run"
    killing.run(store, run, "swav", "batch", 5)
    whole = (run / "last.ckpt").read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], b"", whole[:middle] + bytes(4) + whole[middle + 4 :]):
        (run / "last.ckpt").write_bytes(damaged)
        with pytest.raises(InputError, match=r"last.ckpt: damaged.* Begin again with --overwrite") as caught:
            pretrain(store, "swav", output=run, resume=True, **arguments("swav"))
        assert "\n" not in str(caught.value)


def test_a_probe_adds_its_score_to_each_epoch(store, tmp_path):
    from PIL import Image

    for name, level in (("dark", 10), ("light", 240)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (32, 32), level + i).save(tmp_path / "data" / name / f"{i}.png")
    pretrain(store, "moco", output=tmp_path / "run", probe=tmp_path / "data", **arguments("moco", epochs=2))
    scored = [row["step"] for row in rows(tmp_path / "run") if "knn_accuracy" in row]
    assert scored == [STEPS - 1, 2 * STEPS - 1]


def test_a_selection_trains_on_what_it_keeps_and_is_logged_to_wandb_when_asked(store, tmp_path, monkeypatch):
    logged: list[tuple[int, float]] = []
    end = (-1, 0.0)
    run = SimpleNamespace(log=lambda row, step: logged.append((step, row["loss"])), finish=lambda: logged.append(end))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    with SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=tmp_path / "half.csv")
    options = arguments("moco", epochs=1, selection=tmp_path / "half.csv", wandb="project")
    outcome = pretrain(store, "moco", output=tmp_path / "run", **options)
    assert outcome.values["slices"] == 19
    assert len(rows(tmp_path / "run")) == 2
    assert logged == [(step, loss) for _, step, loss in losses(tmp_path / "run")] + [end]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 36}, UsageError, "--batch-size 36 is more than the 35 slices"),
        ({"preset": "best"}, UsageError, "preset 'best' is unknown"),
        ({"overrides": {"swav.k": 3}}, UsageError, "swav.k is unknown"),
        ({"overrides": {"epochs": 3}}, UsageError, "epochs is given twice"),
        ({"checkpoint_every": 0}, UsageError, "--checkpoint-every 0 is too small"),
        ({"backbone": "vgg16"}, UsageError, "vgg16"),
        ({"selection": "nowhere.csv"}, InputError, "nowhere"),
        ({"probe": "nowhere.csv"}, InputError, "nowhere.csv: cannot be read"),
        ({"wandb": "project"}, UsageError, r"pip install 'lim-gpu\[wandb\]'"),
    ],
)
def test_a_bad_call_is_one_line(store, tmp_path, options, error, message):
    if "wandb" in options and __import__("importlib.util").util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(error, match=message) as caught:
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav", **options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(store, tmp_path):
    with pytest.raises(NoGpuError, match="no usable NVIDIA GPU"):
        pretrain(store, "swav", output=tmp_path / "run", **arguments("swav", device="cuda"))


def test_the_plan_and_the_warnings_are_said_first(store, tmp_path, capsys):
    options = arguments("swav", epochs=1, reporter=Reporter())
    pretrain(store, "swav", output=tmp_path / "run", **options)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("swav (recommended) of resnet18")
    assert any("learning rate (lars, cosine): first 0.5, peak 0.5, last" in line for line in lines)
    assert any(line.startswith("warning: batch 8 + queue 0 is less than twice") for line in lines)
    assert any("images a second" in line for line in lines)
    assert rank() == 0


def test_a_dry_run_loads_no_torch_and_writes_nothing(store, tmp_path):
    line = [*command(store, tmp_path / "run", "--dry-run", "--json")]
    program = "import runpy, sys; sys.argv = sys.argv[1:]; code = 0\n"
    program += "try: runpy.run_module('lim_gpu.cli', run_name='__main__')\nexcept SystemExit as end: code = end.code\n"
    program += "heavy = {'torch', 'numba', 'lightning', 'matplotlib'} & set(sys.modules); assert not heavy, heavy\n"
    program += "raise SystemExit(code)"
    done = subprocess.run([sys.executable, "-c", program, "lim-gpu", *line[2:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["total_steps"] == TOTAL
    assert values["config"]["swav"]["queue"] == 16
    assert not (tmp_path / "run").exists()


def test_help_explains_presets_with_examples():
    text = subprocess.run(
        [sys.executable, "-m", "lim_gpu.cli", "pretrain", "-h"], capture_output=True, text=True
    ).stdout
    for part in ("recommended", "wolf2024-paper", "wolf2024-code", "Examples:", "--resume", "torchrun"):
        assert part in text
