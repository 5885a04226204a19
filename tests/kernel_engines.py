"""Where the kernels run in tests: their source on the CPU everywhere, and the real thing where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from emulation import emulate
from lim_gpu.cuda.module import Module, load


@dataclass(frozen=True)
class Engine:
    """Where kernels run."""

    device: torch.device

    def module(self, name: str) -> Module:
        return load(name) if self.device.type == "cuda" else emulate(name)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)


EMULATED = pytest.param("cpu", marks=pytest.mark.emulated, id="emulated")
GPU = pytest.param("cuda:0", marks=pytest.mark.gpu)


@pytest.fixture(params=[EMULATED, GPU])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    device = torch.device(request.param)
    if device.type == "cpu":  # fills what torch.empty gives with NaN and the largest number: reading it shows
        torch.use_deterministic_algorithms(True)
    yield Engine(device)
    torch.use_deterministic_algorithms(False)
