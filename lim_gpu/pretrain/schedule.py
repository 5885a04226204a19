"""The learning rate and the weight decay of a step: pure functions, so that nothing has to be saved to resume."""

from __future__ import annotations

import math

from lim_gpu.pretrain.config import PretrainConfig


def learning_rate(step: int, total_steps: int, steps_per_epoch: int, config: PretrainConfig) -> float:
    """The learning rate of optimizer step `step`, counted from 0; past the end it stays at `final_lr`.

    Linear from start_lr to lr over the warm-up, then half a cosine to final_lr. "cosine-epoch" holds the value of the
    epoch's first step; "oscillating" is a cosine of period cycle_steps that never ends (what the authors of Wolf et al.
    2024 published: built for 800 steps, run for a hundred thousand).
    """
    warmup = config.warmup(steps_per_epoch)
    if config.schedule == "cosine-epoch":
        step = step // steps_per_epoch * steps_per_epoch
    if step < warmup:
        return config.start_lr + (config.lr - config.start_lr) * step / warmup
    if config.schedule == "oscillating":
        return _cosine(config.lr, config.final_lr, 2 * (step - warmup) / config.cycle_steps)
    return _cosine(config.lr, config.final_lr, min(1.0, (step - warmup) / max(1, total_steps - warmup)))


def weight_decay(step: int, total_steps: int, config: PretrainConfig) -> float:
    """The weight decay of step `step`: constant, or by half a cosine from weight_decay to final_weight_decay."""
    if config.final_weight_decay is None:
        return config.weight_decay
    return _cosine(config.weight_decay, config.final_weight_decay, min(1.0, step / max(1, total_steps)))


def _cosine(first: float, last: float, progress: float) -> float:
    """`first` at progress 0, `last` at 1."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
