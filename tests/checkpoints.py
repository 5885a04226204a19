"""Checkpoints of every maker, synthesised around one backbone, and how one that cannot be read is to fail."""

from __future__ import annotations

import pytest
import torch

from lim_gpu.errors import InputError
from lim_gpu.weights.load import load_backbone

HEAD = torch.zeros(3, 4)
PLACES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def numbered(prefix, state):
    return {f"{prefix}{PLACES[name.split('.')[0]]}.{name.partition('.')[2]}": v for name, v in state.items()}


FOREIGN = {
    "lim-gpu": lambda s: {"state_dict": under("encoder.", s) | under("key_encoder.", s) | {"head.weight": HEAD}},
    "SwAV of Wolf et al.": lambda s: {
        "state_dict": under("model.", s) | {"model.projection_head.0.weight": HEAD, "model.prototypes.weight": HEAD}
    },
    "MoCo of Wolf et al.": lambda s: {
        "state_dict": under("encoder_k.", under("", {k: v + 1 for k, v in s.items()}))
        | under("encoder_q.", s)
        | {"encoder_q.fc.0.weight": HEAD, "queue": HEAD, "val_queue": HEAD}
    },
    "BYOL of Wolf et al.": lambda s: {
        "state_dict": under("online_network.encoder.", s)
        | {"online_network.projector.0.weight": HEAD}
        | under("target_network.encoder.", {k: v + 1 for k, v in s.items()})
    },
    "SparK": lambda s: {"module": dict(s), "arch": "resnet18", "is_pretrain": True},
    "SwAV of facebookresearch": lambda s: under("module.", s) | {"module.prototypes.weight": HEAD},
    "MoCo of facebookresearch": lambda s: {
        "epoch": 200,
        "state_dict": under("module.encoder_q.", s) | under("module.encoder_k.", s) | {"module.queue": HEAD},
        "optimizer": {"param_groups": [{"lr": 0.03, "params": [0]}]},
    },
    "lightly": lambda s: {"state_dict": under("backbone.", s) | {"online_classifier.weight": HEAD}},
    "fine-tuned by Wolf et al., or lightly's example": lambda s: {
        "state_dict": numbered("backbone.", s) | {"classifier.weight": HEAD}
    },
    "torchvision names": lambda s: s | {"fc.weight": HEAD, "fc.bias": HEAD},
}


def fails(path, *words, **options):
    with pytest.raises(InputError) as error:
        load_backbone(path, **options)
    text = str(error.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text, text
