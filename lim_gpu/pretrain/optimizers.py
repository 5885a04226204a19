"""The optimizers of the methods: timm's foreach LARS and LAMB, torch's SGD and RAdam; one or two parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Optimizer, RAdam

from lim_gpu.pretrain.config import PretrainConfig


def parameter_groups(module: nn.Module, config: PretrainConfig) -> list[dict[str, Any]]:
    """The parameters that train: all in one group, or under `exclude_bias_and_norm` those of one dimension or less
    (biases, normalisation) and those listed in `module.no_weight_decay` in a second group without decay.

    LARS and LAMB adapt only groups with a weight decay, so the second group takes plain steps too. A group's
    "decayed" says whether a schedule of the weight decay applies to it.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    listed: Iterable[str] = getattr(module, "no_weight_decay", ())
    if not config.exclude_bias_and_norm:
        return [_group([p for _, p in named], config.weight_decay)]
    plain = {name for name, p in named if p.ndim <= 1 or name in listed}
    groups = [
        _group([p for name, p in named if name not in plain], config.weight_decay),
        _group([p for name, p in named if name in plain], 0.0, decayed=False),
    ]
    return [group for group in groups if group["params"]]


def _group(parameters: list[Parameter], weight_decay: float, decayed: bool = True) -> dict[str, Any]:
    return {"params": parameters, "weight_decay": weight_decay, "decayed": decayed}


def build_optimizer(module: nn.Module, config: PretrainConfig) -> Optimizer:
    """The optimizer of `config` over the parameters of `module` that require a gradient.

    lars  You, Gitman, Ginsburg 2017, as published: d = (g + wd p) * trust |p| / (|g| + wd |p| + eps), then momentum;
          parameters of norm 0 take a plain step. Clipping by the global norm is the trainer's
    lamb  You et al. 2020, with bias correction and averaged gradients; clips by the global norm itself
    sgd   with momentum and weight decay as L2
    radam Liu et al. 2020, weight decay as L2
    """
    from timm.optim.lamb import Lamb
    from timm.optim.lars import Lars

    groups = parameter_groups(module, config)
    if config.optimizer == "lars":
        return Lars(
            groups, lr=config.lr, momentum=config.momentum, trust_coeff=config.trust_coefficient, eps=config.eps
        )
    if config.optimizer == "lamb":
        return Lamb(
            groups, lr=config.lr, betas=config.betas, eps=config.eps, max_grad_norm=config.clip_grad_norm or None
        )
    if config.optimizer == "radam":
        return RAdam(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return SGD(groups, lr=config.lr, momentum=config.momentum)
