"""What is asked of a pre-training, checked. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import PretrainConfig, resolve
from lim_gpu.store.slices import SliceStore

NO_WANDB = "--wandb needs Weights & Biases: pip install 'lim-gpu[wandb]'"


@dataclass(frozen=True)
class Request:
    """What is asked of `pretrain`, under its names. Raises UsageError for what contradicts itself.

    Losses depend on the slices, `config` and `intensity`, and on nothing else.
    """

    store: SliceStore | str | Path
    selection: Path | None
    config: PretrainConfig
    intensity: Intensity
    output: Path
    checkpoint_every: int
    log_every: int
    init: str | None
    probe: Path | None
    wandb: str | None
    stream: bool
    resume: bool
    overwrite: bool
    dry_run: bool
    device: str

    def __post_init__(self) -> None:
        for name, value in (("checkpoint-every", self.checkpoint_every), ("log-every", self.log_every)):
            if value < 1:
                raise UsageError(f"--{name} {value} is too small. Give 1 or more")
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other. Give one of them")


def configuration(
    method: str, preset: str, options: Mapping[str, Any], overrides: Mapping[str, Any] | None, seed: int
) -> PretrainConfig:
    """The configuration that `options` (None: not given) and `overrides` make of a preset.

    Raises UsageError as `resolve`, and for a setting that both give.
    """
    asked = {name: value for name, value in options.items() if value is not None}
    given = dict(overrides or {})
    if twice := sorted(set(asked) & set(given)):
        raise UsageError(f"{twice[0]} is given twice, by its option and by --set")
    return resolve(method, preset, {"seed": seed} | asked | given)
