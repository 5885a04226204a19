"""What a pre-training will do, told before it begins and without torch: data, steps, learning rates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.schedule import learning_rate, weight_decay
from lim_gpu.progress import counted
from lim_gpu.selection.selected import SelectedSlices
from lim_gpu.store.units import check_limits, intensities
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.names import RESNETS

ALGORITHM = 2  # raised when a change of this program changes what a run gives, so that older runs are not gone on with


@dataclass(frozen=True)
class Plan:
    """A checked pre-training of `slices` slices; `values` and `lines` tell it.

    selection is the selection's file, or None for every slice; `data` says which slices those are, for fingerprints;
    `notice` what there is to say of their values, `intensities` what was done to which volumes where that differs.
    init: what the backbone begins with: "imagenet", a checkpoint's path, or None, random weights.
    """

    config: PretrainConfig
    store: Path
    selection: Path | None
    intensity: Intensity
    slices: int
    volumes: int
    data: dict[str, Any]
    notice: str = ""
    intensities: tuple[dict[str, Any], ...] = ()
    init: str | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.config.steps_per_epoch(self.slices)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.config.total_steps(self.slices)

    @property
    def fingerprint(self) -> str:
        """Of the data, the configuration and the algorithm: equal for runs that are the same run."""
        return fingerprint([ALGORITHM, self.config.to_dict(), self.data])

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether the run that recorded its "config" and "fingerprint" is this one, made by an older version too.

        A setting that came later leaves at its default what was done without it, or else ALGORITHM rises with it.
        """
        try:
            known = PretrainConfig.from_dict(record.get("config", {}))
        except UsageError:  # a newer version's
            return False
        made = fingerprint([ALGORITHM, record["config"], self.data])
        return known == self.config and record.get("fingerprint") == made

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return learning_rate(step, self.total_steps, self.steps_per_epoch, self.config)

    def rates(self) -> dict[str, float]:
        """First, peak and last learning rate, as the steps of this run will see them."""
        last = self.total_steps - 1
        peak = min(self.config.warmup(self.steps_per_epoch), last)
        return {"first": self.rate(0), "peak": self.rate(peak), "last": self.rate(last)}

    def values(self) -> dict[str, Any]:
        """For --json and config.json."""
        return {
            "slices": self.slices,
            "volumes": self.volumes,
            "epochs": self.config.epochs,
            "batch_size": self.config.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
            "warmup_steps": self.config.warmup(self.steps_per_epoch),
            "queue": self.config.queue_length(self.slices),
            "lr": self.rates(),
        } | ({"intensities": list(self.intensities)} if self.intensities else {})

    def lines(self) -> list[str]:
        """For people, and plan.txt."""
        config, rates = self.config, self.rates()
        of = f"{self.store}" + (f", selection {self.selection}" if self.selection else ", every slice")
        warmup = config.warmup(self.steps_per_epoch)
        pairs = f" with a next one within {config.reconstruct.max_mm:g} mm" if config.method == "next-slice" else ""
        lines = [
            f"{config.method} ({config.preset}) of {config.backbone}, {counted(config.channels, 'channel')}, "
            f"seed {config.seed}",
            f"begins with: {self.init or 'random weights'}",
            f"data: {counted(self.slices, 'slice')}{pairs} of {counted(self.volumes, 'volume')} in {of}",
            f"steps: {counted(config.epochs, 'epoch')} of {self.steps_per_epoch:,} steps of {config.batch_size} "
            f"slices: {self.total_steps:,} steps",
            f"learning rate ({config.optimizer}, {config.schedule}): first {rates['first']:.3g}, "
            f"peak {rates['peak']:.3g}, last {rates['last']:.3g}, warm-up {warmup:,} steps",
        ]
        decay = [f"{weight_decay(step, self.total_steps, config):.3g}" for step in (0, self.total_steps - 1)]
        lines.append(f"weight decay: {' to '.join(dict.fromkeys(decay))}")
        queue, queued = config.queue_length(self.slices), config.queued
        if queued and queue:
            share = f" (of {queued.queue:,}: whole batches, at most {queued.queue_share:g} x the slices)"
            lines.append(f"queue: {queue:,} embeddings{share if queue < queued.queue else ''}")
        if len(config.stages) > 1:
            stages = ", ".join(f"{share:g} to epoch {end}" for end, share in config.stages.items())
            lines.append(f"masked share of the {config.reconstruct.mask_by}: {stages}; a checkpoint stays of each")
        if left_out := self.slices % config.batch_size:
            lines.append(f"each epoch leaves out {left_out} slices, others each time: its last batch is incomplete")
        return lines


def make_plan(config: PretrainConfig, slices: SelectedSlices, intensity: Intensity, init: str | None = None) -> Plan:
    """Check that the run can be made of these slices, beginning with the weights `init`.

    Raises InputError where there is none, or no checkpoint, UsageError for a batch that the data or the processes do
    not fit, ImageNet weights of other networks than torchvision's, and limits in HU on values that are no HU.
    """
    if not len(slices):
        raise InputError(f"{slices.source}: keeps no slice. Make another selection with lim-gpu reduce")
    _check_batch(config.batch_size, slices)
    selection = None if slices.selection is None else fingerprint([slices.place(i) for i in range(len(slices))])
    data = {"store": slices.store.fingerprint, "selection": selection, "intensity": intensity.describe()}
    if init == "imagenet" and config.backbone not in RESNETS:
        raise UsageError(
            f"--init imagenet is of torchvision's ResNets, not of {config.backbone}. Give a checkpoint of it"
        )
    if init is not None:
        data["init"] = init if init == "imagenet" else _digest(Path(init))
    notice = check_limits(slices.store.path, slices.volumes, intensity)
    seen = tuple(intensities(slices.volumes, intensity))
    volumes = len(slices.volumes)
    told = notice, seen, init
    return Plan(config, slices.store.path, slices.selection, intensity, len(slices), volumes, data, *told)


def _digest(checkpoint: Path) -> str:
    with CheckpointFile(checkpoint) as file:
        file.check_kind()
        return file.sha256


def _check_batch(batch_size: int, slices: SelectedSlices) -> None:
    if batch_size > len(slices):
        raise UsageError(
            f"--batch-size {batch_size} is more than the {len(slices)} slices of {slices.source}. Give a smaller one"
        )
    processes = world_size()
    if batch_size % processes or batch_size // processes < 2:
        raise UsageError(
            f"--batch-size {batch_size} does not divide among {processes} processes. "
            f"Give a multiple of {processes}, at least {2 * processes}"
        )


def world_size() -> int:
    """Processes of this run: torchrun's, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Which of them this is."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
