"""Pre-trainings so small that one takes seconds on a CPU; as a program, one that kills itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lim_gpu.pretrain.presets import RECONSTRUCTIONS
from preloaded import Preloaded

TINY: dict[str, dict[str, Any]] = {
    "swav": {
        "swav.large_size": 48,
        "swav.small_size": 32,
        "swav.small_crops": 2,
        "swav.prototypes": 8,
        "swav.hidden": 32,
        "swav.output": 16,
        "swav.queue": 16,
        "swav.queue_from_epoch": 1,
        "optimizer": "lars",
        "lr": 0.5,
    },
    "moco": {"moco.size": 32, "moco.output": 16, "lr": 0.03},
    "spark": {"spark.size": 64, "spark.decoder_width": 32, "lr": 0.02},
    "masked": {"reconstruct.size": 16, "reconstruct.shares": (0.1, 0.3), "reconstruct.codes": 16},
    "next-slice": {"reconstruct.size": 16, "reconstruct.codes": 16, "reconstruct.max_mm": 10},
    "denoise": {"reconstruct.size": 16, "reconstruct.codes": 16, "reconstruct.dead_after": 2},
    "rotation": {"orientation.size": 32},
    "flip": {"orientation.size": 32},
}
METHODS = tuple(TINY)
EPOCHS, STEPS = 3, 4  # of 35 slices, 8 a step; of 31 pairs, 7 a step
TOTAL = EPOCHS * STEPS


def arguments(method: str, **options: Any) -> dict[str, Any]:
    """Keyword arguments of `pretrain` for a tiny run of `method`."""
    overrides = TINY[method] | options.pop("overrides", {})
    values = {"epochs": EPOCHS, "batch_size": 7 if method == "next-slice" else 8, "backbone": backbone(method)}
    return values | {"device": "cpu", "overrides": overrides} | options


def backbone(method: str) -> str:
    """The smallest that the method takes."""
    return "vqae-small" if method in RECONSTRUCTIONS else "resnet18"


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, int, float]]:
    """Epoch, step and loss of every line."""
    return [(row["epoch"], row["step"], row["loss"]) for row in rows(run)]


def killed(
    preloaded: Preloaded, store: Path, output: Path, method: str, where: str, step: int, resume: bool = False
) -> int:
    """Run until `step` steps are done and then SIGKILL at `where`; the exit status, negative for a signal."""
    order = {"store": str(store), "output": str(output), "method": method, "where": where, "step": step}
    return preloaded.run(__file__, json.dumps(order | {"resume": resume})).returncode


def _kill_at(where: str, step: int) -> None:
    """Make this process kill itself: "batch" in the middle of an epoch; "torn" when a checkpoint is written and not yet
    renamed; "written" when it is renamed and its sidecar not yet there; "between" when epoch=N.ckpt stands and
    last.ckpt does not yet.
    """
    from lim_gpu import files
    from lim_gpu.pretrain import callbacks, checkpoints

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "batch":
        signal_at(step, signal.SIGKILL)
        return
    save = callbacks.save_checkpoint

    def saved(path: Path, state: dict[str, Any], plan: Any) -> None:
        if state["global_step"] == step and where == "between" and path.name == "last.ckpt":
            die()
        if state["global_step"] == step and where == "torn":
            files.sync = lambda _path: die()
        if state["global_step"] == step and where == "written" and path.name == "last.ckpt":
            checkpoints.write_json = lambda *_: die()
        save(path, state, plan)

    callbacks.save_checkpoint = saved


def signal_at(step: int, number: int) -> None:
    """Make this process send itself a signal when `step` steps are done."""
    from lim_gpu.pretrain import callbacks

    record = callbacks.Recorder.on_train_batch_end

    def recorded(self: Any, trainer: Any, *args: Any) -> None:
        record(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), number)

    callbacks.Recorder.on_train_batch_end = recorded  # type: ignore[method-assign]


def _run(order: dict[str, Any]) -> None:
    from lim_gpu.pretrain.run import pretrain

    _kill_at(order["where"], order["step"])
    options = arguments(order["method"], output=order["output"], resume=order["resume"], checkpoint_every=1)
    pretrain(order["store"], order["method"], **options)


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
