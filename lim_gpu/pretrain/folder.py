"""The folder of a run: what stands there already, and the files that are no checkpoints. Loads no torch.

RUN/config.json           the resolved configuration, the data, the versions, and what the numbers of metrics.jsonl are;
                          with it a folder is a run
RUN/plan.txt              the plan as it was printed, with the speed once that was measured
RUN/views.png             what the network sees of a few slices
RUN/metrics.jsonl         an object a step: epoch and step (both from 0), loss, lr and the method's meters
RUN/last.ckpt             the newest state, and last.ckpt.json beside it; epoch=N.ckpt after N epochs
RUN/tensorboard/          the same numbers for TensorBoard
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError, unwritable
from lim_gpu.files import parse_json, read_json, write_json, write_text
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.plan import Plan
from lim_gpu.weights.load import sidecar

FORMAT, VERSION = "lim-gpu-pretraining", 1
OWN = ("last.ckpt*", "epoch=*.ckpt*", "metrics.jsonl", "plan.txt", "views.png", "nonfinite.json")


class RunFolder:
    """The folder `path` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.ckpt"
        self.metrics = path / "metrics.jsonl"
        self._config = path / "config.json"

    def standing(self, plan: Plan, resume: bool, overwrite: bool) -> str:
        """What stands here for `plan`: "nothing", "finished", or "unfinished" (go on with `resume`).

        A run that saved no checkpoint is nothing: there is nothing to go on from, nor to lose. Raises UsageError where
        something else stands, or an unfinished run and neither way on was chosen, InputError where last.ckpt is gone.
        """
        if not self._config.exists():
            if not overwrite and self.path.exists() and self._foreign():
                raise UsageError(f"{self.path}: holds other files. Give --overwrite, or another -o")
            return "nothing"
        record = self.record()
        if not any(self.path.glob("*.ckpt")):
            return "nothing"
        if not plan.is_of(record):
            if overwrite:
                return "nothing"
            raise UsageError(
                f"{self.path}: holds a run made otherwise ({_difference(record, plan)}). "
                "Give --overwrite, or another -o"
            )
        step = self.saved_step()
        if step >= plan.total_steps:
            return "finished"
        if overwrite:
            return "nothing"
        if not self.last.exists():
            raise InputError(
                f"{self.last}: is gone. Put an epoch=*.ckpt with its .json in its place, or begin again: --overwrite"
            )
        if not resume:
            raise UsageError(
                f"{self.path}: holds this run, saved at step {step:,} of {plan.total_steps:,}. "
                "Give --resume to go on, or --overwrite to begin again"
            )
        return "unfinished"

    def _foreign(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.name != ".lock"] if self.path.is_dir() else [self.path]

    def record(self) -> dict[str, Any]:
        """What config.json holds. Raises UsageError where it is another program's, InputError where it is damaged."""
        record = read_json(self._config)
        if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
            raise UsageError(f"{self._config}: is no run that this program knows. Choose another -o")
        for name, kind in (("fingerprint", str), ("config", dict), ("data", dict)):
            if not isinstance(record.get(name), kind):
                raise InputError(f"{self._config}: damaged. Give --overwrite, or another -o")
        return record

    def saved_step(self) -> int:
        """Steps that last.ckpt has behind it, as its sidecar says; 0 where there is none."""
        beside = sidecar(self.last)
        if not beside.exists() or not self.last.exists():
            return 0
        values = read_json(beside)
        step = values.get("global_step") if isinstance(values, dict) else None
        if type(step) is not int:
            raise InputError(f"{beside}: damaged. Remove it to go on from {self.last.name}")
        return step

    def begin(self, plan: Plan, values: dict[str, Any]) -> None:
        """Clear what an earlier run left and write config.json and plan.txt."""
        self._config.unlink(missing_ok=True)  # first: what a kill leaves is then no run
        for pattern in OWN:
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        record = {"format": FORMAT, "version": VERSION, "fingerprint": plan.fingerprint}
        record |= {"config": plan.config.to_dict(), "data": plan.data, "plan": plan.values()} | values
        write_json(self._config, record)
        write_text(self.path / "plan.txt", "".join(f"{line}\n" for line in plan.lines()))

    def add_speed(self, plan: Plan, line: str) -> None:
        """Rewrite plan.txt with the measured speed as its last line."""
        write_text(self.path / "plan.txt", "".join(f"{text}\n" for text in [*plan.lines(), line]))

    def cut_metrics(self, steps: int) -> None:
        """Leave in metrics.jsonl the first `steps` steps: what a killed run wrote after its checkpoint goes."""
        if not self.metrics.exists():
            return
        kept = []
        with open(self.metrics, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.endswith("\n"):  # the kill came within it
                    break
                values = parse_json(line, self.metrics)
                if not isinstance(values, dict) or values.get("step", steps) >= steps:
                    break
                kept.append(line)
        write_text(self.metrics, "".join(kept))

    def append_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl."""
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        except OSError as error:
            raise unwritable(self.metrics, error) from None


def _difference(record: dict[str, Any], plan: Plan) -> str:
    """The first setting in which a standing run differs, as a user would name it."""
    before, now = _flat(_known(record["config"]) | record["data"]), _flat(plan.config.to_dict() | plan.data)
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            if name in plan.data or name.startswith("intensity"):
                return f"another {name}"
            return f"{name} {before.get(name)}, not {now.get(name)}"
    return "by another version of this program"


def _known(config: dict[str, Any]) -> dict[str, Any]:
    """With the settings that came later at their defaults; as it is where a newer version made it."""
    try:
        return PretrainConfig.from_dict(config).to_dict()
    except UsageError:
        return config


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
