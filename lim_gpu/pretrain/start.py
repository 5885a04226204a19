"""A pre-training that begins with weights that are there: ImageNet's, or the backbone of any checkpoint."""

from __future__ import annotations

from pathlib import Path

from lim_gpu.errors import InputError, UsageError
from lim_gpu.pretrain.method import Pretraining
from lim_gpu.pretrain.plan import Plan
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import find_backbone


def begin(module: Pretraining, plan: Plan) -> None:
    """Put the weights that `plan.init` names into the encoder; heads, queues and optimizer begin as they are.

    Raises InputError for a checkpoint that cannot be read, holds another backbone, or was replaced since the plan;
    UsageError for another number of channels.
    """
    config = plan.config
    if plan.init == "imagenet":
        module.begin_from(resnet(config.backbone, config.channels, pretrained=True).state_dict())
        return
    with CheckpointFile(Path(str(plan.init))) as file:
        if file.sha256 != plan.data["init"]:
            raise InputError(f"{file.path}: was replaced meanwhile. Run the command again")
        backbone = find_backbone(file, file.read(), config.backbone)
    if backbone.channels != config.channels:
        raise UsageError(f"{plan.init}: has {backbone.channels} channels. Give --channels {backbone.channels}")
    module.begin_from(backbone.state)
