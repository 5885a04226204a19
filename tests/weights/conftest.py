from __future__ import annotations

import pytest
import torch

from lim_gpu.weights.backbone import resnet


@pytest.fixture(scope="session")
def state():
    """A resnet18 whose every tensor is its own, batch norm statistics included."""
    torch.manual_seed(3)
    network = resnet("resnet18").train()
    with torch.no_grad():
        network(torch.rand(4, 3, 32, 32))
    return network.eval().state_dict()
