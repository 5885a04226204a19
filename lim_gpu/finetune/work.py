"""The work of a fine-tuning: every training and every test done once, or found done; the candidate chosen; results."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
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
from lim_gpu.finetune.calibration import at_bound
from lim_gpu.finetune.data import load_data
from lim_gpu.finetune.folder import RunFolder, predictions_path
from lim_gpu.finetune.metrics import Predictions
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.results import Run, predictions, write_results
from lim_gpu.finetune.splits import Split, splits_of
from lim_gpu.finetune.starts import Start
from lim_gpu.finetune.threshold import youden
from lim_gpu.labelled.images import Images, Normalisation
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import Table
from lim_gpu.progress import Reporter
from lim_gpu.weights import load as weights
from lim_gpu.weights.file import CheckpointFile

DECISIVE = {"accuracy": "val_acc", "auc": "val_auc", "segmentation": "val_dice"}
SCORES = {"val_acc": "accuracy", "val_auc": "AUC", "val_dice": "Dice"}


def work(
    request: Request,
    table: Table,
    folder: RunFolder,
    starts: Sequence[Start],
    place: torch.device,
    reporter: Reporter,
    kind: type[Worker],
) -> None:
    """Train what is not trained yet, choose, test once, write the results.

    starts: the candidates' initial weights; kind: what trains and tests.
    """
    images = load_data(request, table, reporter)
    groups = table.groups(images.digests)
    splits = splits_of(request, table, groups)
    _warn_of_twins(table, groups, reporter)
    folder.write_config(_about(request, table, splits, starts, str(place)))
    worker = kind(request, table, folder, starts, images.to(place), groups, reporter)
    trained = [[worker.train(split, number) for number in range(len(starts))] for split in splits]
    chosen = choose(trained, one_for_all=table.split is not None, by=decisive(request))
    tests = [worker.test(split, number) for split, number in zip(splits, chosen, strict=True)]
    runs = [Run(*parts) for parts in zip(splits, trained, chosen, tests, strict=True)]
    worker.write(runs)
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


def decisive(request: Request) -> str:
    """The validation score by which epochs and candidates are chosen."""
    return DECISIVE[request.task if request.segments else request.choose]


def choose(trained: Sequence[Sequence[dict[str, Any]]], one_for_all: bool, by: str = "val_acc") -> list[int]:
    """The candidate of every run, by a validation score, then the lower validation loss, then the order given.

    With a fixed test part one for all runs, by the mean; where test parts differ each run its own, because the
    validation images of one run are test images of another.
    """
    chosen = []
    for runs in [trained] if one_for_all else [[run] for run in trained]:
        accuracy, loss = (np.array([[c[key] for c in run] for run in runs]).mean(axis=0) for key in (by, "val_loss"))
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
        values: dict[str, Any] = {"epoch": found.epoch} | found.scores | {"temperature": found.temperature}
        values |= {"normalisation": normalisation.describe(), "history": found.history}
        record = self.folder.write_part(path, values)
        score = decisive(self.request)
        best = f"best epoch {found.epoch}, validation {SCORES[score]} {found.scores[score]:.4f}"
        if at_bound(found.temperature):
            best += f"; its probabilities are not to be trusted: temperature {found.temperature:g} ends the search"
        self.reporter.note(f"run {split.run}, seed {split.seed}, {start.name}: {best}")
        return record

    def _trained(self, split: Split, start: Start, normalisation: Normalisation) -> training.Trained:
        protocol, place = self.request.protocol, self.images.pixels.device
        labels = torch.as_tensor(self.table.labels, device=place)
        network = start.network(len(self.table.classes), split.seed).to(place)
        positive = self.request.positive_in(self.table) if self.request.choose == "auc" else None
        if start.calibrated:
            training.calibrate(network, self.images, split.train, protocol, normalisation)
        with self.reporter.track(f"run {split.run}, {Path(start.name).name}", protocol.epochs, "epochs") as advance:
            try:
                return training.train(network, self.images, labels, split, protocol, normalisation, advance, positive)
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
        about["temperature"] = found.temperature
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
        intensity = self.request.intensity.describe() if self.request.labels is not None else None
        how: dict[str, Any] = {"size": protocol.size, "intensity": intensity, "resize": resize}
        how |= {"context": self.request.context} if self.request.context else {}
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
        if standing is None or standing["candidate"] != candidate or "threshold" not in standing:
            values: dict[str, Any] = {"candidate": candidate, "places": split.test.tolist()}
            values |= {"groups": self.groups[split.test].tolist(), "labels": self.table.labels[split.test].tolist()}
            tested, validated = self._probabilities(split, candidate, split.test, split.val)
            values |= {"probabilities": tested.tolist(), "threshold": self._threshold(split, validated)}
            standing = self.folder.write_part(path, values, readable=False)
        return predictions(standing)

    def _threshold(self, split: Split, validated: NDArray[np.float64]) -> float | None:
        """Youden's, of two classes, by the probabilities (n, 2) of the validation part."""
        if len(self.table.classes) != 2:
            return None
        positive = self.request.positive_in(self.table)
        found = youden(validated[:, positive], self.table.labels[split.val] == positive)
        if found is None:
            told = "validation has one class alone, so no threshold, sensitivity and specificity"
            self.reporter.warn(f"run {split.run}: {told}")
        return found

    def _probabilities(self, split: Split, candidate: int, *parts: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """(n, classes) of a training's best epoch for each of `parts`, the places (n,) of some images."""
        start = self.starts[candidate]
        network = training.Classifier(start.backbone, start.channels, len(self.table.classes))
        with CheckpointFile(self.folder.checkpoint(split.run, candidate)) as file:
            network.load_state_dict(file.read()["state_dict"])
        network.to(self.images.pixels.device)
        normalisation = self._normalisation(candidate, split)
        for places in parts:
            outputs = training.logits(network, self.images, places, self.request.protocol, normalisation)
            yield torch.softmax(outputs.double(), dim=1).cpu().numpy()

    def write(self, runs: Sequence[Run]) -> None:
        """Write what was found."""
        write_results(self.folder, self.request, self.table, [start.name for start in self.starts], runs)
