"""Where runs begin: random weights, calibrated ones too, ImageNet's, or those of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.request import INITS, Request
from lim_gpu.finetune.training import Classifier
from lim_gpu.finetune.unet import UNet
from lim_gpu.labelled.images import Normalisation
from lim_gpu.progress import Reporter
from lim_gpu.weights.backbone import features
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import IMAGENET, find_backbone, per_channel
from lim_gpu.weights.names import is_timm
from lim_gpu.weights.timm_models import timm_normalisation

DEFAULT_BACKBONE = "resnet50"


@dataclass(frozen=True)
class Start:
    """Where a run begins: `name` for records; `state` of a backbone, None for random or (imagenet) torchvision's.

    calibrated: batch norm has seen the training images, as that of every trained network has. The fair control: what
    random weights score depends much on it.
    """

    name: str
    backbone: str
    channels: int
    state: dict[str, Tensor] | None = None
    imagenet: bool = False
    normalisation: Normalisation | None = None  # of its pre-training
    calibrated: bool = False

    def network(self, classes: int, seed: int) -> Classifier:
        """The network before its first step; starts of equal backbone and seed have equal heads."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Classifier(self.backbone, self.channels, classes, self.imagenet)
            torch.manual_seed(seed)
            network.head.reset_parameters()
        if self.state is not None:
            network.encoder.load_state_dict(self.state, strict=True)
        return network

    def unet(self, seed: int) -> UNet:
        """The U-Net before its first step; starts of equal backbone and seed have equal decoders."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            whole = UNet(self.backbone, self.channels, self.imagenet)
        if self.state is not None:
            whole.encoder.load_state_dict(self.state, strict=True)
        return whole


def read_starts(request: Request, files: Sequence[CheckpointFile], reporter: Reporter) -> list[Start]:
    """Every candidate's initial weights, read and checked; `files` are the request's checkpoints, closed hereafter."""
    if files:
        starts = [_of_checkpoint(file, request.backbone, reporter) for file in files]
        if request.context and (grey := [start.name for start in starts if start.channels == 1]):
            raise UsageError(f"{grey[0]}: takes one channel, and `context` gives three. Leave it out")
        return starts
    name = request.backbone or DEFAULT_BACKBONE
    features(name)  # is it known?
    if request.init == "imagenet":
        constants = timm_normalisation(name) if is_timm(name) else IMAGENET
        return [Start("imagenet", name, 3, imagenet=True, normalisation=Normalisation(*constants))]
    return [Start(request.init or INITS[0], name, 3, calibrated=request.init == "calibrated")]


def _of_checkpoint(file: CheckpointFile, expected: str | None, reporter: Reporter) -> Start:
    with file:
        backbone = find_backbone(file, file.read(), expected)
    normalisation = _stated_normalisation(file.path, backbone.preprocess, backbone.channels)
    count = len(backbone.state)
    reporter.note(f"{file.path} ({backbone.origin}): {backbone.name}, {count} of {count} tensors")
    return Start(str(file.path), backbone.name, backbone.channels, backbone.state, False, normalisation)


def _stated_normalisation(path: Path, prepared: dict[str, Any], channels: int) -> Normalisation:
    """Mean and std that a checkpoint states. InputError when they are no such numbers."""
    try:
        mean, std = (per_channel(tuple(float(v) for v in prepared[key]), channels) for key in ("mean", "std"))
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise InputError(f"{path}: states no usable mean and std in preprocess. Correct the JSON beside it") from None
    return Normalisation(mean, std)
