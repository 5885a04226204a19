"""The examples run as they stand, from any folder, and print what they promise."""

from __future__ import annotations

from functools import cache
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


@pytest.fixture(scope="module")
def printed(preloaded, tmp_path_factory):
    """What an example prints, run once."""

    @cache
    def run(name):
        folder = tmp_path_factory.mktemp("empty")
        done = preloaded.run(EXAMPLES / name, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert not list(folder.iterdir()), "an example leaves nothing behind"
        return done.stdout

    return run


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(name, printed):
    assert EXPECTED[name] in printed(name)


def test_training_in_plain_torch_learns(printed):
    losses = [float(line.split()[-1]) for line in printed("plain_torch.py").splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
