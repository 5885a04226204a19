"""Batch norm over the images of all processes, in timm's networks too."""

from __future__ import annotations

from typing import cast

from lightning.pytorch.plugins import LayerSync
from torch import nn


class SynchronisedBatchNorm(LayerSync):
    """In place of Lightning's own, which drops the activations that timm's batch norms hold."""

    def apply(self, model: nn.Module) -> nn.Module:
        """The model with its batch norms synchronised."""
        from timm.layers.norm_act import convert_sync_batchnorm

        return cast(nn.Module, convert_sync_batchnorm(model))

    def revert(self, model: nn.Module) -> nn.Module:
        """The model as it is: nothing computes with it after the training."""
        return model
