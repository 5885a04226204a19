"""Saving a whole training state and taking it back, so that a resumed run repeats an uninterrupted one to the bit.

The file is a dictionary under Lightning's names, readable with `torch.load(weights_only=True)`. Our own restoring
replaces Lightning's, which counts batches it has not trained on and needs a loader that counts too; here the place in
the run is the number of steps, and everything else follows from it.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import lightning
import torch
from lightning import Trainer

import lim_gpu
from lim_gpu.errors import InputError, unreadable
from lim_gpu.files import file_sha256, read_json, replacing, write_json
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import Pretraining
from lim_gpu.pretrain.plan import Plan
from lim_gpu.weights.load import FORMAT, VERSION, preprocess, sidecar

AGAIN = "Begin again with --overwrite, or put an epoch=*.ckpt with its .json in its place"


def kept_epochs(config: PretrainConfig, every: int) -> set[int]:
    """After which epochs a checkpoint stays: each `every` of them, the end of a stage of a curriculum, and the last."""
    return {*range(every, config.epochs, every), *config.stages, config.epochs}


def training_state(trainer: Trainer, module: Pretraining, plan: Plan) -> dict[str, Any]:
    """All that resuming needs. Contains collectives: every process calls it."""
    step = trainer.global_step
    return {
        "pytorch-lightning_version": lightning.__version__,
        "epoch": step // plan.steps_per_epoch,  # finished ones
        "global_step": step,
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "lr_schedulers": [],  # the rates are a function of the step
        "lim_gpu": {
            "format": FORMAT,
            "version": VERSION,
            "program": lim_gpu.__version__,
            "fingerprint": plan.fingerprint,
            "config": plan.config.to_dict(),
            "preprocess": preprocessing(plan),
            "precision": trainer.precision_plugin.state_dict(),  # the loss scale of 16-mixed
        },
    }


def save_checkpoint(path: Path, state: dict[str, Any], plan: Plan) -> None:
    """Write `path` and its sidecar, each under a temporary name that is renamed when it is on the disk.

    Raises LimGpuError, and leaves the file that was there, when it cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "wb") as raw:
        file = _HashedFile(raw)
        try:
            torch.save(state, file)  # type: ignore[arg-type]
        except RuntimeError:  # what torch makes of an OSError
            if file.error is None:
                raise
            raise file.error from None
    digest = file.sha256.hexdigest()
    write_json(sidecar(path), describe(state, plan, digest))


class _HashedFile:
    """A file that is written once from front to back, with its SHA-256 and the error that ended it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self.sha256 = raw, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Append bytes."""
        try:
            count = self._raw.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return count

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._raw.flush()


def describe(state: dict[str, Any], plan: Plan, digest: str) -> dict[str, Any]:
    """The sidecar of a checkpoint: what a person or a program wants to know of it without loading it."""
    step, config = state["global_step"], plan.config
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": digest,
        "method": config.method,
        "backbone": config.backbone,
        "channels": config.channels,
        "epoch": state["epoch"],
        "global_step": step,
        "total_steps": plan.total_steps,
        "finished": step >= plan.total_steps,
        "schedule": {"lr_of_last_step": plan.rate(max(0, step - 1)), "lr_of_next_step": plan.rate(step)} | plan.rates(),
        "config": config.to_dict(),
        "data": plan.data | {"slices": plan.slices, "volumes": plan.volumes},
        "preprocess": preprocessing(plan),
        "versions": {"lim_gpu": lim_gpu.__version__, "torch": torch.__version__, "lightning": lightning.__version__},
    }


def preprocessing(plan: Plan) -> dict[str, Any]:
    """How a slice becomes what the backbone was trained on, without what is random."""
    config = plan.config
    how = {"size": config.view_size, "intensity": plan.intensity.describe()}
    return preprocess(config.mean, config.std, config.channels, **how)


def load_state(path: Path, plan: Plan) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises InputError for a file that is damaged or of another run."""
    known = read_json(sidecar(path)) if sidecar(path).exists() else {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        record, step = state["lim_gpu"], state["global_step"]
    except OSError as error:
        raise unreadable(path, error) from None
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError):
        raise InputError(f"{path}: damaged. {AGAIN}") from None
    # A kill between the two renames leaves the sidecar of the save before; then its checksum is of another file.
    if known.get("global_step") == step and known.get("sha256") != file_sha256(path):
        raise InputError(f"{path}: damaged, its SHA-256 is another than {sidecar(path).name} says. {AGAIN}")
    if not plan.is_of(record):
        raise InputError(f"{path}: is of another run than config.json. {AGAIN}")
    return dict(state)


def restore(trainer: Trainer, module: Pretraining, state: dict[str, Any]) -> None:
    """Put `state` into a trainer that is about to begin, and its counters where the saved run stood."""
    module.load_state_dict(state["state_dict"])
    for optimizer, values in zip(trainer.optimizers, state["optimizer_states"], strict=True):
        optimizer.load_state_dict(values)
    trainer.precision_plugin.load_state_dict(state["lim_gpu"]["precision"])
    trainer.fit_loop.epoch_progress.current.increment_by(state["epoch"])
    steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    steps.total.increment_by(state["global_step"])


def unsound_parameters(module: torch.nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold a value that is no finite number; one wait for the device."""
    named = [(name, value) for name, value in module.state_dict().items() if _is_float(value)]
    finite = torch.stack([torch.isfinite(value).all() for _, value in named]).tolist()
    return [name for (name, _), good in zip(named, finite, strict=True) if not good]


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
