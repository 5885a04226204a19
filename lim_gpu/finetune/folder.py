"""The folder of a fine-tuning: what stands there already, whether it may stay, and where its parts lie. Loads no torch.

RUN/config.json                 what was asked, the data, the seeds and the versions; with it a folder is a run
RUN/runs/R/candidate-C/         training.json and best.ckpt of run R from the initial weights C
RUN/runs/R/test.json            the predictions of run R on its test part
RUN/results.json                the scores; with it a run is finished. results.md, predictions.csv, roc.png beside it;
                                of a segmentation overlaps.csv and overlays.png
RUN/comparison.json             the scores less those of another run
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.files import fingerprint, read_json, write_json, write_text
from lim_gpu.weights.load import sidecar

FORMAT, VERSION = "lim-gpu-finetune", 1
ALGORITHM = 3  # raised when a change of this program changes a result
OWN = (
    *("config.json", "results.json", "results.md", "predictions.csv", "roc.png", "comparison.json", "runs"),
    *("overlaps.csv", "overlays.png"),
)


class RunFolder:
    """The folder `path` of the request that `parameters` describe, over data of the fingerprint `data`.

    asked    the fingerprint of the request: a part that bears it is not done again
    """

    def __init__(self, path: Path, parameters: dict[str, Any], data: str) -> None:
        self.path, self.parameters = path, parameters
        self.asked = fingerprint([ALGORITHM, parameters, data])
        self.config = path / "config.json"
        self.results = path / "results.json"

    def standing(self, overwrite: bool) -> bool:
        """Whether the finished result of this request stands here. UsageError for anything else that must stay.

        A run of which no training was finished need not stay.
        """
        if not self.path.exists():
            return False
        if not [path for path in self.path.iterdir() if path.name != ".lock"]:
            return False
        if not self.config.exists():
            raise UsageError(f"{self.path}: holds other files. Give another -o")
        record = read_json(self.config)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UsageError(f"{self.path}: holds another program's run. Give another -o")
        if record.get("fingerprint") == self.asked:
            return self.results.exists()
        done = [*self.path.glob("runs/*/*/training.json"), *self.path.glob("results.json")]
        if done and not overwrite:
            raise UsageError(f"{self.path}: holds a run with other options or data. Give --overwrite, or another -o")
        return False

    def clear(self) -> None:
        """Remove an earlier run of another request."""
        if self.config.exists() and read_json(self.config).get("fingerprint") != self.asked:
            for name in OWN:
                path = self.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def write_config(self, about: dict[str, Any]) -> None:
        """Write config.json: what was asked, and `about` the run."""
        record = {"format": FORMAT, "version": VERSION, "fingerprint": self.asked, "parameters": self.parameters}
        write_json(self.config, record | about)

    def training(self, run: int, candidate: int) -> Path:
        """The record of one training."""
        return self._candidate(run, candidate) / "training.json"

    def checkpoint(self, run: int, candidate: int) -> Path:
        """The best state of one training."""
        return self._candidate(run, candidate) / "best.ckpt"

    def _candidate(self, run: int, number: int) -> Path:
        return self.path / "runs" / str(run) / f"candidate-{number}"

    def drop_checkpoint(self, run: int, candidate: int) -> None:
        """Remove the weights of a candidate that was not chosen, and the JSON beside them."""
        path = self.checkpoint(run, candidate)
        for one in (path, sidecar(path)):
            one.unlink(missing_ok=True)

    def part(self, path: Path) -> dict[str, Any] | None:
        """A part of this request that stands, None where it does not or belongs to another."""
        if not path.exists():
            return None
        record = read_json(path)
        return record if isinstance(record, dict) and record.get("fingerprint") == self.asked else None

    def write_part(self, path: Path, values: dict[str, Any], *, readable: bool = True) -> dict[str, Any]:
        """Write a part of this request and return it; one line where nobody reads it (predictions)."""
        record = {"fingerprint": self.asked} | values
        write_json(path, record) if readable else write_text(path, json.dumps(record, allow_nan=False) + "\n")
        return record


def drop_networks(path: Path, keep: int = 0) -> None:
    """Remove the networks of a finished folder `path`, whose scores need none, but those of its first `keep` runs."""
    for checkpoint in path.glob("runs/*/candidate-*/best.ckpt"):
        if int(checkpoint.parts[-3]) >= keep:
            checkpoint.unlink()
            sidecar(checkpoint).unlink(missing_ok=True)


def predictions_path(path: Path, run: int) -> Path:
    """Where the predictions of a run on its test part lie, below the folder `path`."""
    return path / "runs" / str(run) / "test.json"
