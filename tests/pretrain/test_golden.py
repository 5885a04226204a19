"""Refactoring does not change a training: its losses are those on record.

In float64: what AVX2 sums otherwise than plain code (1e-16) has grown to 8e-8 of MoCo's loss after twelve steps, and
not at all of SwAV's; here are eight. In float32 it is 8e-3 after three (`test_run.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lim_gpu.pretrain.run import pretrain
from pretrainings import STEPS, TINY, arguments, losses

EPOCHS = 2  # from the second on SwAV has its queue
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


class InFloat64(TorchFunctionMode):
    """What asks for float32 gets float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def wide(value):
            return torch.float64 if value is torch.float32 else value

        if function is torch.Tensor.float:
            function = torch.Tensor.double
        return function(*map(wide, args), **{name: wide(value) for name, value in (kwargs or {}).items()})


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    with InFloat64():
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def _same_tokens(monkeypatch):
    """torch 2.6 draws a truncated normal otherwise than 2.14 does."""

    def drawn(tensor, std, a=-2, b=2):
        with torch.no_grad():
            return tensor.normal_(0, std).clamp_(a, b)

    monkeypatch.setattr(torch.nn.init, "trunc_normal_", drawn)


@pytest.mark.parametrize("method", TINY)
@pytest.mark.usefixtures("_float64", "_same_tokens")
def test_the_losses_in_float64_are_the_golden_ones(store, tmp_path, method):
    pretrain(store, method, output=tmp_path / "run", **arguments(method, epochs=EPOCHS))
    found = [loss for _, _, loss in losses(tmp_path / "run")]
    assert len(found) == EPOCHS * STEPS
    assert found == pytest.approx(GOLDEN[method], rel=1e-5)
