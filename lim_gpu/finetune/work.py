"""The work of a fine-tuning: every training and every test done once, or found done; the candidate chosen; results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

import lim_gpu
from lim_gpu.errors import LimGpuError
from lim_gpu.files import replacing, write_json
from lim_gpu.finetune import training
from lim_gpu.finetune.folder import RunFolder, predictions_path
from lim_gpu.finetune.metrics import Predictions
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.results import Run, predictions, write_results
from lim_gpu.finetune.splits import Split, make_splits
from lim_gpu.finetune.starts import Start
from lim_gpu.labelled.images import Images, Normalisation, load_images
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import Table
from lim_gpu.progress import Reporter
from lim_gpu.weights import load as weights
from lim_gpu.weights.file import CheckpointFile


def work(
    request: Request,
    table: Table,
    folder: RunFolder,
    starts: Sequence[Start],
    place: torch.device,
    reporter: Reporter,
) -> None:
    """Train what is not trained yet, choose, test once, write the results. starts: the candidates' initial weights."""
    images = load_images(table, request.protocol.size, request.protocol.resize, reporter)
    groups = table.groups(images.digests)
    splits = make_splits(table, request.runs, request.folds, request.seed, groups)
    _warn_of_twins(table, groups, reporter)
    folder.write_config(_about(request, table, splits, starts, str(place)))
    worker = Worker(request, table, folder, starts, images.to(place), groups, reporter)
    trained = [[worker.train(split, number) for number in range(len(starts))] for split in splits]
    chosen = choose(trained, one_for_all=table.split is not None)
    tests = [worker.test(split, number) for split, number in zip(splits, chosen, strict=True)]
    runs = [Run(*parts) for parts in zip(splits, trained, chosen, tests, strict=True)]
    write_results(folder, request, table, [start.name for start in starts], runs)
    for run in runs:
        for other in set(range(len(starts))) - {run.chosen}:
            folder.drop_checkpoint(run.split.run, other)


def _warn_of_twins(table: Table, groups: NDArray[np.int64], reporter: Reporter) -> None:
    """Say when a fixed split has equal images on both sides."""
    if table.split is None:
        return
    test = table.split == PARTS.index("test")
    if both := len(set(groups[test].tolist()) & set(groups[~test].tolist())):
        reporter.warn(f"{table.path}: {both} images stand both in test and in train or val. See lim-gpu leaks")


def _about(
    request: Request, table: Table, splits: Sequence[Split], starts: Sequence[Start], device: str
) -> dict[str, Any]:
    """What config.json says beside what was asked."""
    counts = table.counts(np.arange(len(table)))
    versions = {"lim_gpu": lim_gpu.__version__, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return {
        "data": {"path": str(table.path), "fingerprint": table.fingerprint(), "classes": counts},
        "positive": table.classes[request.positive_in(table)] if len(table.classes) == 2 else None,
        "starts": [{"name": s.name, "backbone": s.backbone, "channels": s.channels} for s in starts],
        "seeds": [split.seed for split in splits],
        "device": device,
        "versions": versions,
    }


def choose(trained: Sequence[Sequence[dict[str, Any]]], one_for_all: bool) -> list[int]:
    """The candidate of every run, by validation accuracy, then the lower validation loss, then the order given.

    With a fixed test part one for all runs, by the mean; where test parts differ each run its own, because the
    validation images of one run are test images of another.
    """
    chosen = []
    for runs in [trained] if one_for_all else [[run] for run in trained]:
        accuracy, loss = (
            np.array([[c[key] for c in run] for run in runs]).mean(axis=0) for key in ("val_acc", "val_loss")
        )
        best = int(np.lexsort((loss, -accuracy.round(9)))[0])
        chosen += [best] * len(runs)
    return chosen


@dataclass(frozen=True, eq=False)
class Worker:
    """Trains and tests on `images`, which lie on the device; candidates are the numbers of `starts`."""

    request: Request
    table: Table
    folder: RunFolder
    starts: Sequence[Start]
    images: Images
    groups: NDArray[np.int64]
    reporter: Reporter

    def train(self, split: Split, candidate: int) -> dict[str, Any]:
        """The record of one training, done now or read; its best state lies beside it."""
        path = self.folder.training(split.run, candidate)
        standing = self.folder.part(path)
        if standing is not None:
            return standing
        start, normalisation = self.starts[candidate], self._normalisation(candidate, split)
        found = self._trained(split, start, normalisation)
        self._save(found, split, candidate, normalisation)
        values: dict[str, Any] = {"epoch": found.epoch, "val_acc": found.accuracy, "val_loss": found.loss}
        values |= {"normalisation": normalisation.describe(), "history": found.history}
        record = self.folder.write_part(path, values)
        best = f"best epoch {found.epoch}, validation accuracy {found.accuracy:.4f}"
        self.reporter.note(f"run {split.run}, seed {split.seed}, {start.name}: {best}")
        return record

    def _trained(self, split: Split, start: Start, normalisation: Normalisation) -> training.Trained:
        protocol, place = self.request.protocol, self.images.pixels.device
        labels = torch.as_tensor(self.table.labels, device=place)
        network = start.network(len(self.table.classes), split.seed).to(place)
        if start.calibrated:
            training.calibrate(network, self.images, split.train, protocol, normalisation)
        with self.reporter.track(f"run {split.run}, {Path(start.name).name}", protocol.epochs, "epochs") as advance:
            try:
                return training.train(network, self.images, labels, split, protocol, normalisation, advance)
            except torch.OutOfMemoryError:
                step = f"a step of {protocol.batch_size} images does not fit in its memory"
                raise LimGpuError(f"{place}: {step}. Give a smaller --batch-size or --size") from None

    def _normalisation(self, candidate: int, split: Split) -> Normalisation:
        start = self.starts[candidate]
        if self.request.protocol.normalise == "notebooks":
            constants = weights.MEDMNIST_PAPER if self.table.archive else weights.COVID_PAPER
            mean, std = (weights.per_channel(values, start.channels) for values in constants)
            return Normalisation(mean, std)
        return start.normalisation or Normalisation.of(self.images.pixels[split.train], start.channels)

    def _save(self, found: training.Trained, split: Split, candidate: int, normalisation: Normalisation) -> None:
        """The best state as one of our checkpoints, the backbone at `encoder.`, with its JSON beside it."""
        about = self._about(found.epoch, split, self.starts[candidate], normalisation)
        path = self.folder.checkpoint(split.run, candidate)
        with replacing(path) as temporary:
            try:
                torch.save({"state_dict": found.state, "epoch": found.epoch, "lim_gpu": about}, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error).split("\n")[0]) from error
        write_json(weights.sidecar(path), about)

    def _about(self, epoch: int, split: Split, start: Start, normalisation: Normalisation) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        protocol = self.request.protocol
        resize = "area" if protocol.resize == "area" else "bilinear, antialiased"
        how: dict[str, Any] = {"size": protocol.size, "intensity": None, "resize": resize}
        return {
            "format": weights.FORMAT,
            "version": weights.VERSION,
            "method": "finetune",
            "backbone": start.backbone,
            "channels": start.channels,
            "epoch": epoch,
            "run": split.run,
            "seed": split.seed,
            "schedule": {"lr": protocol.learning_rate(epoch), "head_only": protocol.head_only(epoch)},
            "classes": list(self.table.classes),
            "start": start.name,
            "preprocess": weights.preprocess(normalisation.mean, normalisation.std, start.channels, **how),
            "configuration": self.folder.parameters,
        }

    def test(self, split: Split, candidate: int) -> Predictions:
        """Predictions on the test part, made once by the chosen candidate's best epoch."""
        path = predictions_path(self.folder.path, split.run)
        standing = self.folder.part(path)
        if standing is None or standing["candidate"] != candidate:
            values: dict[str, Any] = {"candidate": candidate, "places": split.test.tolist()}
            values |= {"groups": self.groups[split.test].tolist(), "labels": self.table.labels[split.test].tolist()}
            values |= {"probabilities": self._probabilities(split, candidate)}
            standing = self.folder.write_part(path, values, readable=False)
        return predictions(standing)

    def _probabilities(self, split: Split, candidate: int) -> list[list[float]]:
        start = self.starts[candidate]
        network = training.Classifier(start.backbone, start.channels, len(self.table.classes))
        with CheckpointFile(self.folder.checkpoint(split.run, candidate)) as file:
            network.load_state_dict(file.read()["state_dict"])
        network.to(self.images.pixels.device)
        normalisation = self._normalisation(candidate, split)
        outputs = training.logits(network, self.images, split.test, self.request.protocol, normalisation)
        found: list[list[float]] = torch.softmax(outputs.double(), dim=1).tolist()
        return found
