"""A fine-tuning from data to results: runs over splits and initial weights, each done once, in one folder."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import (
    file_sha256,
    fingerprint,
    json_text,
    locked,
    read_json,
    remove_stale,
    replacing,
    write_json,
    write_text,
)
from lim_gpu.finetune.metrics import MAIN, Predictions, bootstrap, paired, scores, summary
from lim_gpu.finetune.protocol import Protocol, protocol
from lim_gpu.finetune.report import NAMES, predictions_csv, results_markdown, save_roc, score_text
from lim_gpu.finetune.splits import Split, make_splits
from lim_gpu.labelled.table import PARTS, Table, read_table
from lim_gpu.progress import Outcome, Reporter

if TYPE_CHECKING:
    from lim_gpu.finetune.training import Start
    from lim_gpu.labelled.images import Images, Normalisation

FORMAT, VERSION = "lim-gpu-finetune", 1
ALGORITHM = 2  # raised when a change of this program changes a result
OWN = ("config.json", "results.json", "results.md", "predictions.csv", "roc.png", "comparison.json", "runs")
INITS = ("random", "imagenet")
DEFAULT_BACKBONE = "resnet50"


@dataclass(frozen=True)
class Request:
    """What is asked of `finetune`, checked. Raises UsageError for what contradicts itself."""

    data: Path
    protocol: Protocol
    checkpoints: tuple[Path, ...] = ()
    init: str | None = None
    backbone: str | None = None
    runs: int | None = None
    folds: int | None = None
    seed: int = 0
    positive: str | None = None
    trust: bool = False

    def __post_init__(self) -> None:
        if self.checkpoints and self.init is not None:
            raise UsageError(f"--init {self.init} and --checkpoint exclude each other. Give one of them")
        if self.init not in (None, *INITS):
            raise UsageError(f"--init {self.init} is unknown. Give {' or '.join(INITS)}, or --checkpoint FILE")
        for name, value, low in (("runs", self.runs, 1), ("folds", self.folds, 2), ("seed", self.seed, 0)):
            if value is not None and value < low:
                raise UsageError(f"--{name} {value} is too small. Give {low} or more")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UsageError("a --checkpoint is given twice. Give each once")

    def starts(self) -> list[str]:
        """The initial weights by name, the candidates among which validation chooses."""
        return [str(path) for path in self.checkpoints] or [self.init or INITS[0]]

    def parameters(self) -> dict[str, Any]:
        """All that changes the result, files by their content; nothing that does not (device, paths)."""
        starts = [file_sha256(path) for path in self.checkpoints] or self.starts()
        values = {
            "starts": starts,
            "backbone": self.backbone,
            "runs": self.runs,
            "folds": self.folds,
            "seed": self.seed,
        }
        return values | {"positive": self.positive, "protocol": self.protocol.describe()}


def finetune_from_options(
    options: dict[str, Any],
    output: Path,
    device: str,
    reporter: Reporter,
    against: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Run or plan `finetune` with the options of the command line."""
    settings = {name: options.pop(name) for name in ("epochs", "head_epochs", "batch_size", "lr", "size", "flip")}
    if settings["flip"] is None and options["data"].suffix == ".npz":
        settings["flip"] = False  # organs have a left and a right, and the notebook of MedMNIST does not mirror
    asked = Request(protocol=protocol(options.pop("protocol"), **settings), **options)
    return finetune(asked, output, device, reporter, against=against, overwrite=overwrite, dry_run=dry_run)


def finetune(
    request: Request,
    output: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    *,
    against: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Fine-tune and evaluate as asked, into the folder `output`; with `against`, compare with another such folder.

    What stands there of the same request is not done again. Raises LimGpuError, in one line, for everything expected.
    """
    reporter = reporter or Reporter(quiet=True)
    if output.resolve().is_relative_to(request.data.resolve()):
        raise UsageError(f"{output}: is inside the data, which it would become a part of. Give another -o")
    table = read_table(request.data)
    positive = _positive(table, request.positive)
    parameters = request.parameters()
    asked = fingerprint([ALGORITHM, parameters, table.fingerprint()])
    finished = _standing(output, asked, overwrite)
    if against is not None:
        _read_finished(against)
    if dry_run:
        return _plan(request, table, output, finished)
    if not finished:
        if request.protocol.epochs <= request.protocol.head_epochs:
            alone = f"--epochs {request.protocol.epochs} with --head-epochs {request.protocol.head_epochs}"
            reporter.warn(f"{alone}: only the last layer trains. Give more epochs, or fewer head epochs")
        with locked(output):
            remove_stale(output)
            _begin(output, asked)
            _Run(request, table, positive, output, asked, parameters, reporter).work(device)
    results = read_json(output / "results.json")
    lines = [f"unchanged: {output}"] if finished else [_first_line(results, output)]
    lines += [f"{NAMES[name]:9s}{score_text(results[name])}" for name in MAIN] + _positive_lines(request, table)
    values = results | {"output": str(output), "unchanged": finished}
    if against is not None:
        compared = compare(output, against)
        write_json(output / "comparison.json", compared)
        values["comparison"] = compared
        lines += _comparison_lines(compared)
    return Outcome(values, lines)


def _positive(table: Table, name: str | None) -> int:
    """The place of the positive class: the second in natural order, as in the authors' notebooks, or the named one."""
    if name is None:
        return 1
    if name not in table.classes:
        raise UsageError(
            f"--positive {name}: {table.path} has the classes {', '.join(table.classes)}. Give one of them"
        )
    if len(table.classes) > 2:
        raise UsageError(f"--positive {name}: only two classes have a positive one, and here are {len(table.classes)}")
    return table.classes.index(name)


def _positive_lines(request: Request, table: Table) -> list[str]:
    """Which class the scores are of, and that it was not chosen by the user."""
    if len(table.classes) > 2:
        return []
    place = _positive(table, request.positive)
    told = "" if request.positive is not None else f" (--positive {table.classes[1 - place]} for the other)"
    return [f"AUC, F1 and ROC are of class {table.classes[place]}{told}"]


def _standing(output: Path, asked: str, overwrite: bool) -> bool:
    """Whether `output` holds the finished result of this request. UsageError for anything else that must stay.

    A run of which no training was finished need not stay.
    """
    if not output.exists():
        return False
    if not output.is_dir():
        raise UsageError(f"{output}: is a file. Give another -o")
    if not [path for path in output.iterdir() if path.name != ".lock"]:
        return False
    config = output / "config.json"
    if not config.exists():
        raise UsageError(f"{output}: holds other files. Give another -o")
    record = read_json(config)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UsageError(f"{output}: holds another program's run. Give another -o")
    if record.get("fingerprint") == asked:
        return (output / "results.json").exists()
    done = [*output.glob("runs/*/*/training.json"), *output.glob("results.json")]
    if done and not overwrite:
        raise UsageError(f"{output}: holds a run with other options or data. Give --overwrite, or another -o")
    return False


def _begin(output: Path, asked: str) -> None:
    """Clear an earlier run of another request."""
    config = output / "config.json"
    if config.exists() and read_json(config).get("fingerprint") != asked:
        for name in OWN:
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _plan(request: Request, table: Table, output: Path, finished: bool) -> Outcome:
    splits = make_splits(table, request.runs, request.folds, request.seed, table.groups())
    counts = table.counts(np.arange(len(table)))
    steps = sum(math.ceil(len(split.train) / request.protocol.batch_size) for split in splits) * request.protocol.epochs
    sizes = [
        {"run": s.run, "seed": s.seed, "train": len(s.train), "val": len(s.val), "test": len(s.test)} for s in splits
    ]
    starts = request.starts()
    values = {"dry_run": True, "images": len(table), "classes": counts, "runs": sizes, "starts": starts}
    values |= {"steps": steps * len(starts), "protocol": request.protocol.describe(), "unchanged": finished}
    lines = [
        f"plan: {len(table):,} images ({', '.join(f'{count} {name}' for name, count in counts.items())}) -> {output}",
        f"initial weights: {', '.join(starts)}",
        *(f"run {s['run']}: seed {s['seed']}, train {s['train']}, val {s['val']}, test {s['test']}" for s in sizes),
        f"{request.protocol.name}: {request.protocol.epochs} epochs a run, {steps * len(starts):,} steps in all",
        *_positive_lines(request, table),
    ]
    return Outcome(values, lines + ([f"unchanged: {output}"] if finished else []))


@dataclass
class _Run:
    """The work of one request in its folder."""

    request: Request
    table: Table
    positive: int
    output: Path
    asked: str
    parameters: dict[str, Any]
    reporter: Reporter

    def work(self, device: str) -> None:
        """Train what is not trained yet, choose, test once, write the results."""
        import torch

        from lim_gpu.labelled.images import load_images
        from lim_gpu.weights.backbone import training_device
        from lim_gpu.weights.load import sidecar

        place = training_device(device)
        protocol = self.request.protocol
        starts = self._starts()
        images = load_images(self.table, protocol.size, protocol.resize, self.reporter)
        groups = self.table.groups(images.digests)
        splits = make_splits(self.table, self.request.runs, self.request.folds, self.request.seed, groups)
        self._warn_of_twins(groups)
        self._write_config(splits, starts, str(place))
        images = images.to(place)
        labels = torch.as_tensor(self.table.labels, device=place)
        trained = [
            [self._train(split, number, starts, images, labels) for number in range(len(starts))] for split in splits
        ]
        chosen = self._choose(trained)
        tested = [
            self._test(split, number, starts, images, groups) for split, number in zip(splits, chosen, strict=True)
        ]
        self._write_results(splits, starts, trained, chosen, tested)
        for split, number in zip(splits, chosen, strict=True):
            for other in set(range(len(starts))) - {number}:
                for path in (self._checkpoint(split.run, other), sidecar(self._checkpoint(split.run, other))):
                    path.unlink(missing_ok=True)

    def _starts(self) -> list[Start]:
        """Every candidate's initial weights, read and checked before anything is trained."""
        from lim_gpu.finetune.training import Start
        from lim_gpu.labelled.images import Normalisation
        from lim_gpu.weights.backbone import features
        from lim_gpu.weights.load import IMAGENET, load_backbone

        request = self.request
        if not request.checkpoints:
            name = request.backbone or DEFAULT_BACKBONE
            features(name)  # is it known?
            if request.init == "imagenet":
                return [Start("imagenet", name, 3, imagenet=True, normalisation=Normalisation(*IMAGENET))]
            return [Start(INITS[0], name, 3)]
        starts = []
        for path in request.checkpoints:
            backbone = load_backbone(path, trust=request.trust, expected=request.backbone)
            normalisation = _stated_normalisation(path, backbone.preprocess, backbone.channels)
            source = f"{path} ({backbone.source})"
            self.reporter.note(f"{source}: {backbone.name}, {len(backbone.state)} of {len(backbone.state)} tensors")
            starts.append(Start(str(path), backbone.name, backbone.channels, backbone.state, False, normalisation))
        return starts

    def _warn_of_twins(self, groups: Any) -> None:
        """Say when a fixed split has equal images on both sides."""
        if self.table.split is None:
            return
        test = self.table.split == PARTS.index("test")
        both = len(set(groups[test].tolist()) & set(groups[~test].tolist()))
        if both:
            self.reporter.warn(
                f"{self.table.path}: {both} images stand both in test and in train or val. See lim-gpu leaks"
            )

    def _write_config(self, splits: Sequence[Split], starts: Sequence[Start], device: str) -> None:
        import torch
        import torchvision

        import lim_gpu

        counts = self.table.counts(np.arange(len(self.table)))
        record = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.asked,
            "parameters": self.parameters,
            "data": {"path": str(self.table.path), "fingerprint": self.table.fingerprint(), "classes": counts},
            "positive": self.table.classes[self.positive] if len(self.table.classes) == 2 else None,
            "starts": [{"name": s.name, "backbone": s.backbone, "channels": s.channels} for s in starts],
            "seeds": [split.seed for split in splits],
            "device": device,
            "versions": {
                "lim_gpu": lim_gpu.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
        }
        write_json(self.output / "config.json", record)

    def _folder(self, run: int, number: int) -> Path:
        return self.output / "runs" / str(run) / f"candidate-{number}"

    def _checkpoint(self, run: int, number: int) -> Path:
        return self._folder(run, number) / "best.ckpt"

    def _normalisation(self, start: Start, images: Images, split: Split) -> Normalisation:
        from lim_gpu.labelled.images import Normalisation
        from lim_gpu.weights.load import COVID_PAPER, MEDMNIST_PAPER, per_channel

        if self.request.protocol.normalise == "notebooks":
            constants = MEDMNIST_PAPER if self.table.archive else COVID_PAPER
            mean, std = (per_channel(values, start.channels) for values in constants)
            return Normalisation(mean, std)
        return start.normalisation or Normalisation.of(images.pixels[split.train], start.channels)

    def _train(self, split: Split, number: int, starts: Sequence[Start], images: Images, labels: Any) -> dict[str, Any]:
        """The record of one training, done now or read; its best state lies beside it."""
        import torch

        from lim_gpu.finetune.training import train

        path = self._folder(split.run, number) / "training.json"
        standing = self._part(path)
        if standing is not None:
            return standing
        start, protocol = starts[number], self.request.protocol
        normalisation = self._normalisation(start, images, split)
        network = start.network(len(self.table.classes), split.seed).to(images.pixels.device)
        with self.reporter.track(f"run {split.run}, {Path(start.name).name}", protocol.epochs, "epochs") as advance:
            try:
                trained = train(network, images, labels, split, protocol, normalisation, advance)
            except torch.OutOfMemoryError:
                step = f"a step of {protocol.batch_size} images does not fit in its memory"
                raise LimGpuError(f"{labels.device}: {step}. Give a smaller --batch-size or --size") from None
        self._save(trained.state, split, number, start, normalisation, trained.epoch)
        record = {
            "fingerprint": self.asked,
            "epoch": trained.epoch,
            "val_acc": trained.accuracy,
            "val_loss": trained.loss,
        }
        record |= {"normalisation": normalisation.describe(), "history": trained.history}
        write_json(path, record)
        best = f"best epoch {trained.epoch}, validation accuracy {trained.accuracy:.4f}"
        self.reporter.note(f"run {split.run}, seed {split.seed}, {start.name}: {best}")
        return record

    def _part(self, path: Path) -> dict[str, Any] | None:
        """A part of this request that stands, None where it does not or belongs to another."""
        if not path.exists():
            return None
        record = read_json(path)
        return record if isinstance(record, dict) and record.get("fingerprint") == self.asked else None

    def _save(
        self, state: dict[str, Any], split: Split, number: int, start: Start, normalisation: Normalisation, epoch: int
    ) -> None:
        """The best state as one of our checkpoints, the backbone at `encoder.`, with its JSON beside it."""
        import torch

        from lim_gpu.weights import load as checkpoint

        protocol = self.request.protocol
        prepared = checkpoint.preprocess(
            normalisation.mean, normalisation.std, start.channels, size=protocol.size, intensity=None,
            resize="area" if protocol.resize == "area" else "bilinear, antialiased",
        )  # fmt: skip
        about = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "method": "finetune"}
        about |= {
            "backbone": start.backbone,
            "channels": start.channels,
            "epoch": epoch,
            "run": split.run,
            "seed": split.seed,
        }
        about |= {"schedule": {"lr": protocol.learning_rate(epoch), "head_only": protocol.head_only(epoch)}}
        about |= {"classes": list(self.table.classes), "start": start.name, "preprocess": prepared}
        about |= {"configuration": self.parameters}
        path = self._checkpoint(split.run, number)
        with replacing(path) as temporary:
            try:
                torch.save({"state_dict": state, "epoch": epoch, "lim_gpu": about}, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error).split("\n")[0]) from error
        write_json(checkpoint.sidecar(path), about)

    def _choose(self, trained: list[list[dict[str, Any]]]) -> list[int]:
        """The candidate of every run, by validation accuracy, then the lower validation loss, then the order given.

        With a fixed test part one for all runs, by the mean; where test parts differ each run its own, because the
        validation images of one run are test images of another.
        """
        groups = [trained] if self.table.split is not None else [[run] for run in trained]
        chosen = []
        for runs in groups:
            accuracy, loss = (
                np.array([[c[key] for c in run] for run in runs]).mean(axis=0) for key in ("val_acc", "val_loss")
            )
            best = int(np.lexsort((loss, -accuracy.round(9)))[0])
            chosen += [best] * len(runs)
        return chosen

    def _test(self, split: Split, number: int, starts: Sequence[Start], images: Images, groups: Any) -> Predictions:
        """Predictions on the test part, made once by the chosen candidate's best epoch."""
        import torch

        from lim_gpu.finetune.training import Classifier, logits
        from lim_gpu.weights.load import read_checkpoint

        path = self.output / "runs" / str(split.run) / "test.json"
        standing = self._part(path)
        if standing is None or standing["candidate"] != number:
            start = starts[number]
            network = Classifier(start.backbone, start.channels, len(self.table.classes))
            network.load_state_dict(read_checkpoint(self._checkpoint(split.run, number))["state_dict"])
            network.to(images.pixels.device)
            outputs = logits(
                network, images, split.test, self.request.protocol, self._normalisation(start, images, split)
            )
            probabilities = torch.softmax(outputs.double(), dim=1)
            standing = {"fingerprint": self.asked, "candidate": number, "places": split.test.tolist()}
            standing |= {"groups": groups[split.test].tolist(), "labels": self.table.labels[split.test].tolist()}
            standing |= {"probabilities": probabilities.tolist()}
            write_text(path, json.dumps(standing, allow_nan=False) + "\n")
        return _predictions(standing)

    def _write_results(
        self,
        splits: Sequence[Split],
        starts: Sequence[Start],
        trained: list[list[dict[str, Any]]],
        chosen: list[int],
        tested: list[Predictions],
    ) -> None:
        classes, two = self.table.classes, len(self.table.classes) == 2
        found = [scores(predictions, classes, self.positive) for predictions in tested]
        intervals = bootstrap(tested, self.positive, self.request.seed)
        positive = classes[self.positive] if two else None
        results: dict[str, Any] = {"format": "lim-gpu-finetune-results", "version": VERSION, "fingerprint": self.asked}
        for name in (*MAIN, "f1_macro", "f1_micro", "f1_weighted"):
            results[name] = summary([score[name] for score in found])
        for name in MAIN:
            results[name]["interval"] = intervals[name]
        results["f1_of"] = {c: summary([score["f1_of"][c] for score in found]) for c in classes}
        results["confusion"] = np.sum([score["confusion"] for score in found], axis=0).tolist()
        results |= {"classes": list(classes), "positive": positive, "images": len(self.table)}
        results["auc_is"] = f"AUC of class {positive}." if two else "AUC: mean over classes, each against the rest."
        results["f1_is"] = f"F1 of class {positive}." if two else "F1: mean over classes (macro)."
        results["start"] = [starts[number].name for number in sorted(set(chosen))]
        results["protocol"] = self.request.protocol.describe()
        results["runs"] = [
            {
                "run": split.run,
                "seed": split.seed,
                "train": len(split.train),
                "val": len(split.val),
                "test": len(split.test),
            }
            | {"start": starts[n].name, "checkpoint": str(self._checkpoint(split.run, n).relative_to(self.output))}
            | {key: parts[n][key] for key in ("epoch", "val_acc", "val_loss", "normalisation")}
            | {"scores": score}
            for split, n, parts, score in zip(splits, chosen, trained, found, strict=True)
        ]
        results["candidates"] = [
            {"name": start.name, "chosen": chosen.count(number)}
            | {key: float(np.mean([parts[number][key] for parts in trained])) for key in ("val_acc", "val_loss")}
            for number, start in enumerate(starts)
        ]
        order = [(split.run, split.seed, predictions) for split, predictions in zip(splits, tested, strict=True)]
        write_text(self.output / "predictions.csv", predictions_csv(self.table, order))
        save_roc(self.output / "roc.png", tested, classes, self.positive, results)
        write_text(self.output / "results.md", results_markdown(results))
        text = json_text(results)
        write_text(self.output / "results.json", text)  # last: it says that the run is finished


def _predictions(record: dict[str, Any]) -> Predictions:
    places, groups, labels = (np.array(record[name], dtype=np.int64) for name in ("places", "groups", "labels"))
    return Predictions(places, groups, labels, np.array(record["probabilities"], dtype=np.float64))


def _stated_normalisation(path: Path, prepared: dict[str, Any], channels: int) -> Normalisation:
    """Mean and std that a checkpoint states. InputError when they are no such numbers."""
    from lim_gpu.labelled.images import Normalisation
    from lim_gpu.weights.load import per_channel

    try:
        mean, std = (per_channel(tuple(float(v) for v in prepared[key]), channels) for key in ("mean", "std"))
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise InputError(f"{path}: states no usable mean and std in preprocess. Correct the JSON beside it") from None
    return Normalisation(mean, std)


def _first_line(results: dict[str, Any], output: Path) -> str:
    runs = len(results["runs"])
    return f"{', '.join(results['start'])}: {runs} run{'s' if runs > 1 else ''}, {results['f1_is']} -> {output}"


def _read_finished(folder: Path) -> tuple[dict[str, Any], list[Predictions]]:
    """config.json and the predictions of a finished fine-tuning. InputError when it is none."""
    if not (folder / "results.json").is_file() or not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no finished fine-tuning. Run lim-gpu finetune -o {folder} to its end")
    config = read_json(folder / "config.json")
    try:
        parts = [read_json(folder / "runs" / str(run) / "test.json") for run in range(len(config["seeds"]))]
        return config, [_predictions(part) for part in parts]
    except (KeyError, TypeError, ValueError, LimGpuError) as error:
        raise InputError(f"{folder}: damaged ({type(error).__name__}). Run it again with --overwrite") from None


def compare(first: Path, second: Path) -> dict[str, Any]:
    """The scores of `first` less those of `second`, run by run: both finished, of the same data, seeds and splits.

    Raises InputError for a folder that is no finished run, UsageError when the two cannot be compared.
    """
    (config, runs), (other_config, others) = _read_finished(first), _read_finished(second)
    same = [(config[key], other_config[key]) for key in ("data", "seeds", "positive")]
    same[0] = (config["data"]["fingerprint"], other_config["data"]["fingerprint"])
    tests = [(run.places.tolist(), other.places.tolist()) for run, other in zip(runs, others, strict=False)]
    for what, pairs in (("data", same[:1]), ("seeds", same[1:2]), ("positive class", same[2:]), ("test images", tests)):
        if any(a != b for a, b in pairs):
            raise UsageError(f"{first} and {second} differ in their {what}. Run both with the same")
    classes = list(config["data"]["classes"])
    positive = classes.index(config["positive"]) if config["positive"] else 1
    intervals = bootstrap(runs, positive, config["seeds"][0], minus=others)
    found, found_others = ([scores(run, classes, positive) for run in side] for side in (runs, others))
    differences = {
        name: paired([s[name] for s in found], [s[name] for s in found_others], intervals[name]) for name in MAIN
    }
    return {"first": str(first), "second": str(second), "seeds": config["seeds"]} | differences


def _comparison_lines(compared: dict[str, Any]) -> list[str]:
    lines = [f"{compared['first']} less {compared['second']}, {len(compared['seeds'])} runs of the same seeds:"]
    return lines + [f"{NAMES[name]:9s}{score_text(compared[name], '+.4f')}" for name in MAIN]
