"""Runs from the command line: signals, two processes of torchrun, the dry run and the help."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys

import pytest
import torch

from lim_gpu.pretrain.run import pretrain
from pretrainings import EPOCHS, STEPS, TOTAL, arguments, losses

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = "timm:test_resnet"
ENDING = """
import os, sys
from pretrainings import signal_at
from lim_gpu.cli import main
from lim_gpu.pretrain import callbacks
callbacks.AGREE = 1
step = int(sys.argv.pop(1))
if os.environ["RANK"] == "1":
    signal_at(step, 15)
main()
"""


def command(store, run, *more, backbone="resnet18"):
    options = arguments("swav")
    overrides = [text for name, value in options["overrides"].items() for text in ("--set", f"{name}={value}")]
    given = ["--epochs", str(EPOCHS), "--batch-size", "8", "--backbone", backbone, "--device", "cpu"]
    return [
        *("-m", "lim_gpu.cli", "pretrain", str(store), "--method", "swav", *given, *overrides),
        "-o",
        str(run),
        *more,
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_in_the_middle_of_an_epoch(finished, store, tmp_path, preloaded, number, code):
    run = tmp_path / "run"
    program = f"from pretrainings import signal_at; signal_at(5, {int(number)}); from lim_gpu.cli import main; main()"
    done = preloaded.run("-c", program, *command(store, run)[2:])
    assert done.returncode == code, done.stderr
    assert "Go on with --resume" in done.stderr
    assert "Traceback" not in done.stderr
    step = torch.load(run / "last.ckpt")["global_step"]
    assert step == 5
    assert len(losses(run)) == step
    pretrain(store, "swav", output=run, resume=True, **arguments("swav"))
    assert losses(run) == losses(finished / "swav")


@pytest.fixture(scope="module")
def together(store, tmp_path_factory, preloaded):
    """A run of two processes, started by torchrun with gloo: its folder, and what came of it."""
    run = tmp_path_factory.mktemp("together") / "run"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return run, preloaded.run(*torchrun, *command(store, run, "--json", backbone=SMALL))


def test_two_processes_train_as_one_run(store, together, preloaded):
    """One folder, written once, the losses of one run; and both agree that it is finished."""
    run, first = together
    again = ranks(preloaded, *command(store, run, "--json", backbone=SMALL))
    for expected, done in ((False, first), (True, again[0])):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["unchanged"] is expected  # one object: only the first process speaks
    assert again[1].returncode == 0, again[1].stderr
    assert again[1].stdout == ""
    assert [(epoch, step) for epoch, step, _ in losses(run)] == [(i // STEPS, i) for i in range(TOTAL)]
    assert all(math.isfinite(loss) for _, _, loss in losses(run))
    assert torch.load(run / "last.ckpt")["global_step"] == TOTAL
    assert int(torch.load(run / "last.ckpt")["state_dict"]["encoder.bn1.num_batches_tracked"]) == 2 * TOTAL


def test_two_processes_that_are_ended_go_on_to_the_bit_and_then_one_goes_on_alone(store, together, tmp_path, preloaded):
    """Ended in the middle of an epoch, both by the signal that one of them gets."""
    line = command(store, tmp_path / "run", backbone=SMALL)
    for step, more in ((5, ()), (9, ("--resume",))):
        ended = ranks(preloaded, "-c", ENDING, step, *line[2:], *more)
        assert [done.returncode for done in ended] == [143, 143], ended[0].stderr
        assert losses(tmp_path / "run") == losses(together[0])[:step]
    alone = preloaded.run(*line, "--resume")
    assert alone.returncode == 0, alone.stderr
    assert "began with 2 processes, goes on with 1: every step has the same slices" in alone.stderr
    assert "batch norm sees 8 of them at once, not 4" in alone.stderr
    assert losses(tmp_path / "run")[:9] == losses(together[0])[:9]
    assert len(losses(tmp_path / "run")) == TOTAL


def ranks(preloaded, *arguments):
    """Two processes as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [program.wait() for program in [preloaded.start(*arguments, env=common | mine) for mine in own]]


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
