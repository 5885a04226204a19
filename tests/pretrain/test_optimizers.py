"""timm's LARS and LAMB against their formulas written plainly, and the groups of the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.optimizers import build_optimizer, parameter_groups

STEPS = 30


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()


def gradients(module: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) * 3 for p in module.parameters()]


def trained(config, module: nn.Module) -> list[torch.Tensor]:
    optimizer = build_optimizer(module, config)
    for step in range(STEPS):
        for parameter, gradient in zip(module.parameters(), gradients(module, step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [p.detach() for p in module.parameters()]


@pytest.mark.parametrize("exclude", [False, True])
def test_lars_is_the_plain_formula(exclude):
    overrides = {"exclude_bias_and_norm": exclude, "weight_decay": 0.01, "lr": 0.5}
    config = resolve("swav", overrides=overrides)
    found = trained(config, network())
    module = network()
    values = [p.detach().clone() for p in module.parameters()]
    velocity = [torch.zeros_like(v) for v in values]
    for step in range(STEPS):
        for i, g in enumerate(gradients(module, step)):
            p = values[i]
            if not (exclude and p.ndim <= 1):
                norm, size = p.norm(), g.norm()
                scale = 0.001 * norm / (size + 0.01 * norm + 1e-8) if norm and size else 1.0
                g = (g + 0.01 * p) * scale
            velocity[i] = 0.9 * velocity[i] + g
            values[i] = p - 0.5 * velocity[i]
    for got, expected in zip(found, values, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_lamb_is_the_plain_formula():
    config = resolve("spark", overrides={"lr": 0.01})
    found = trained(config, network())
    module = network()
    values = [p.detach().clone() for p in module.parameters()]
    mean, square = ([torch.zeros_like(v) for v in values] for _ in range(2))
    for step in range(1, STEPS + 1):
        grads = gradients(module, step - 1)
        norm = torch.stack([g.norm() for g in grads]).norm()
        for i, g in enumerate(grads):
            p, g = values[i], g / max(1.0, float(norm) / 5.0)
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.95 * square[i] + 0.05 * g * g
            update = mean[i] / (1 - 0.9**step) / ((square[i] / (1 - 0.95**step)).sqrt() + 1e-6)
            if p.ndim > 1:
                update = update + 0.04 * p
                update = update * (p.norm() / update.norm())
            values[i] = p - 0.01 * update
    for got, expected in zip(found, values, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_groups():
    module = network()
    one = parameter_groups(module, resolve("swav", overrides={"exclude_bias_and_norm": False}))
    assert [len(group["params"]) for group in one] == [6]
    two = parameter_groups(module, resolve("swav"))
    assert [(len(group["params"]), group["decayed"]) for group in two] == [(2, True), (4, False)]
    assert two[1]["weight_decay"] == 0
    module.no_weight_decay = {"2.weight"}
    assert [len(group["params"]) for group in parameter_groups(module, resolve("swav"))] == [1, 5]


def test_parameters_that_need_no_gradient_are_left_out():
    module = network().requires_grad_(False)
    module[2].requires_grad_(True)
    groups = parameter_groups(module, resolve("swav"))
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize("method", ["swav", "moco", "spark"])
def test_a_parameter_without_gradient_does_not_move(method):
    """Frozen prototypes: not even weight decay or momentum may touch them."""
    module = network()
    optimizer = build_optimizer(module, resolve(method, overrides={"weight_decay": 0.1}))
    before = module[2].weight.detach().clone()
    for parameter in module[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(module[2].weight, before)
    assert not torch.equal(module[0].weight, network()[0].weight)
