"""The examples run as they stand, from any folder, and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "interface.py": "torch.Size([1, 168, 208]) torch.int16",
    "plain_torch.py": "step 30: loss",
    "lightning_loop.py": "trains on 9 of 36 slices",
    "monai_pipeline.py": "epoch 1: loss",
}


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


def test_training_in_plain_torch_learns(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "plain_torch.py"], cwd=tmp_path, capture_output=True, text=True, timeout=800
    )
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
