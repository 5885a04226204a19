"""What makes pre-trainings comparable: at equal steps everything that is counted in epochs or slices is equal, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lim_gpu.evaluate.grid import Grid, Pretrain
from lim_gpu.evaluate.negatives import NEGATIVES
from lim_gpu.pretrain.config import PretrainConfig, resolve
from lim_gpu.pretrain.presets import SECTIONS

REFERENCE = "hash 6"  # whose slices say how long a queue may be: the paper's recommendation
CHECKPOINT_EVERY = 50  # epochs


def configured(
    grid: Grid, job: Pretrain, seed: int, kept: Callable[[str], int]
) -> tuple[PretrainConfig, dict[str, Any], dict[str, Any]]:
    """The configuration of a job, and options and overrides of `lim_gpu.pretrain` that make it.

    Epochs and batch are those of the method's preset where the grid gives none. kept: slices that a reduction of the
    job's store keeps, by name. ALL, with which others are compared at equal steps, and those at equal steps have the
    warm-up, the start of the queue and the frozen prototypes of ALL in steps, and the queue of REFERENCE, so that they
    differ in their slices alone.
    """
    options, overrides = options_of(grid.pretrain, job.method)
    preset = options.pop("preset")
    given = {name: options.pop(name) for name in ("epochs", "batch_size", "backbone", "channels") if name in options}
    overrides = given | overrides | {"seed": seed}
    config = resolve(job.method, preset, overrides)
    if job.budget != "epochs":
        overrides |= counted_in_steps(config, config.steps_per_epoch(kept("all")))
        if config.queued and config.queue_length(kept(REFERENCE)):
            section = SECTIONS[job.method]
            overrides |= {f"{section}.queue": config.queue_length(kept(REFERENCE)), f"{section}.queue_share": 0.0}
    if job.negatives:
        overrides |= NEGATIVES[job.negatives].settings
    if job.strength != 1:
        overrides["strength"] = job.strength
    every = options.setdefault("checkpoint_every", CHECKPOINT_EVERY)
    if job.budget == "steps":
        epochs = equal_steps(config.epochs, kept("all"), kept(job.reduce.name), config.batch_size)
        overrides["epochs"] = epochs
        options["checkpoint_every"] = max(1, round(every * epochs / config.epochs))  # as many checkpoints, too
    return resolve(job.method, preset, overrides), options | {"preset": preset}, overrides


def counted_in_steps(config: PretrainConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The settings of `config` that count epochs, as overrides that count steps, of `steps_per_epoch` an epoch."""
    settings: dict[str, Any] = {"warmup_steps": config.warmup(steps_per_epoch), "warmup_epochs": 0.0}
    if config.method != "swav":
        return settings
    begins, frozen = config.queued_from(steps_per_epoch), config.frozen(steps_per_epoch)
    settings |= {"swav.queue_from_step": begins, "swav.queue_from_epoch": 0}
    return settings | {"swav.freeze_iterations": frozen, "swav.freeze_epochs": 0}


def equal_steps(epochs: int, whole: int, reduced: int, batch_size: int) -> int:
    """Epochs on `reduced` slices with as many steps as `epochs` on `whole`, drop_last in both; at least one."""
    steps = epochs * (whole // batch_size)
    return max(1, math.ceil(steps / max(1, reduced // batch_size) - 1e-9))


def options_of(pretrain: dict[str, Any], method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of `lim_gpu.pretrain` for a method, its own table [pretrain.METHOD] first, and those of its `set`."""
    common = {name: value for name, value in pretrain.items() if name not in SECTIONS}
    own = pretrain.get(method, {})
    others = tuple(f"{section}." for section in set(SECTIONS.values()) - {SECTIONS[method]})
    settings = common.get("set", {}) | own.get("set", {})
    overrides = {name: value for name, value in settings.items() if not name.startswith(others)}
    return {name: value for name, value in (common | own).items() if name != "set"}, overrides
