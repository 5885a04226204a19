"""Batch norm over all processes: timm's layers go on activating, under the same names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lim_gpu.pretrain.synchronised import SynchronisedBatchNorm
from lim_gpu.weights.backbone import network


@pytest.mark.parametrize("name", ["resnet18", "timm:test_byobnet"])
@torch.no_grad()
def test_a_synchronised_network_computes_the_same(name):
    torch.manual_seed(0)
    own, images = network(name).eval(), torch.randn(2, 3, 64, 64)
    expected, names = own(images), list(own.state_dict())
    synchronised = SynchronisedBatchNorm().apply(own)
    norms = [module for module in synchronised.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert torch.equal(synchronised(images), expected)
    assert list(synchronised.state_dict()) == names
