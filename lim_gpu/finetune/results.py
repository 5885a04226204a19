"""What a fine-tuning found: results.json and the files beside it, the difference to another, and lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import read_json, write_json, write_text
from lim_gpu.finetune.folder import VERSION, RunFolder, predictions_path
from lim_gpu.finetune.metrics import MAIN, Predictions, bootstrap, paired, scores, summary
from lim_gpu.finetune.overlap import Overlaps, differences, overlaps
from lim_gpu.finetune.report import NAMES, predictions_csv, results_markdown, save_roc, score_text
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.splits import Split
from lim_gpu.finetune.threshold import rate_summaries
from lim_gpu.labelled.table import Table

AVERAGES = ("f1_macro", "f1_micro", "f1_weighted")


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is done: the records of its trainings, one a candidate, the number of the chosen one, its test.

    predictions: Predictions, of a segmentation Overlaps.
    """

    split: Split
    trained: Sequence[dict[str, Any]]
    chosen: int
    predictions: Any


def write_results(
    folder: RunFolder, request: Request, table: Table, candidates: Sequence[str], runs: Sequence[Run]
) -> None:
    """Write predictions.csv, roc.png, results.md and results.json. candidates: the initial weights by name."""
    positive, tests = request.positive_in(table), [run.predictions for run in runs]
    results = _results(folder, request, table, candidates, runs)
    order = [(run.split.run, run.split.seed, run.predictions) for run in runs]
    write_text(folder.path / "predictions.csv", predictions_csv(table, order))
    save_roc(folder.path / "roc.png", tests, table.classes, positive, results)
    write_text(folder.path / "results.md", results_markdown(results))
    write_json(folder.results, results)  # last: it says that the run is finished


def _results(
    folder: RunFolder, request: Request, table: Table, candidates: Sequence[str], runs: Sequence[Run]
) -> dict[str, Any]:
    positive = request.positive_in(table)
    found = [scores(run.predictions, table.classes, positive) for run in runs]
    results: dict[str, Any] = {"format": "lim-gpu-finetune-results", "version": VERSION, "fingerprint": folder.asked}
    results |= {name: summary([score[name] for score in found]) for name in (*MAIN, *AVERAGES)}
    intervals = bootstrap([run.predictions for run in runs], positive, request.seed)
    for name in MAIN:
        results[name]["interval"] = intervals[name]
    results["f1_of"] = {name: summary([score["f1_of"][name] for score in found]) for name in table.classes}
    results["confusion"] = np.sum([score["confusion"] for score in found], axis=0).tolist()
    if len(table.classes) == 2:
        results |= rate_summaries([run.predictions for run in runs], positive, request.seed)
    results |= _about_classes(table, positive)
    results["start"] = [candidates[number] for number in sorted({run.chosen for run in runs})]
    results["protocol"] = request.protocol.describe()
    results["runs"] = [
        _run_record(run, candidates, folder) | {"scores": score} for run, score in zip(runs, found, strict=True)
    ]
    results["candidates"] = [_candidate_record(number, name, runs) for number, name in enumerate(candidates)]
    return results


def _about_classes(table: Table, positive: int) -> dict[str, Any]:
    two = len(table.classes) == 2
    name = table.classes[positive] if two else None
    return {
        "classes": list(table.classes),
        "positive": name,
        "images": len(table),
        "auc_is": f"AUC of class {name}." if two else "AUC: mean over classes, each against the rest.",
        "f1_is": f"F1 of class {name}." if two else "F1: mean over classes (macro).",
    }


def _run_record(run: Run, candidates: Sequence[str], folder: RunFolder) -> dict[str, Any]:
    checkpoint = folder.checkpoint(run.split.run, run.chosen).relative_to(folder.path)
    record = sizes(run.split) | {"start": candidates[run.chosen], "checkpoint": str(checkpoint)}
    return record | {key: run.trained[run.chosen][key] for key in ("epoch", "val_acc", "val_loss", "normalisation")}


def _candidate_record(number: int, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    means = {key: float(np.mean([run.trained[number][key] for run in runs])) for key in ("val_acc", "val_loss")}
    return {"name": name, "chosen": [run.chosen for run in runs].count(number)} | means


def sizes(split: Split) -> dict[str, int]:
    """Number and seed of a run, and the images of its parts."""
    parts = {name: len(getattr(split, name)) for name in ("train", "val", "test")}
    return {"run": split.run, "seed": split.seed} | parts


def predictions(record: dict[str, Any]) -> Any:
    """Those that a run's test.json holds: Predictions, of a segmentation Overlaps."""
    if "dice" in record:
        return overlaps(record)
    places, groups, labels = (np.array(record[name], dtype=np.int64) for name in ("places", "groups", "labels"))
    probabilities = np.array(record["probabilities"], dtype=np.float64)
    return Predictions(places, groups, labels, probabilities, record.get("threshold"))


def read_finished(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """config.json and the predictions of a finished fine-tuning. InputError when it is none."""
    if not (folder / "results.json").is_file() or not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no finished fine-tuning. Run lim-gpu finetune -o {folder} to its end")
    config = read_json(folder / "config.json")
    try:
        return config, [predictions(read_json(predictions_path(folder, run))) for run in range(len(config["seeds"]))]
    except (KeyError, TypeError, ValueError, LimGpuError) as error:
        raise InputError(f"{folder}: damaged ({type(error).__name__}). Run it again with --overwrite") from None


def compare(first: Path, second: Path) -> dict[str, Any]:
    """The scores of `first` less those of `second`, run by run: both finished, of the same data, seeds and splits.

    Raises InputError for a folder that is no finished run, UsageError when the two cannot be compared.
    """
    (config, runs), (other_config, others) = read_finished(first), read_finished(second)
    for what, own, other in (
        ("data", config["data"]["fingerprint"], other_config["data"]["fingerprint"]),
        ("seeds", config["seeds"], other_config["seeds"]),
        ("positive class", config["positive"], other_config["positive"]),
        ("test images", [run.places.tolist() for run in runs], [run.places.tolist() for run in others]),
    ):
        if own != other:
            raise UsageError(f"{first} and {second} differ in their {what}. Run both with the same")
    about = {"first": str(first), "second": str(second), "seeds": config["seeds"]}
    classes = list(config["data"]["classes"])
    positive = classes.index(config["positive"]) if config["positive"] else 1
    if isinstance(runs[0], Overlaps):
        return about | differences(runs, others, config["seeds"][0])
    intervals = bootstrap(runs, positive, config["seeds"][0], minus=others)
    found, found_others = ([scores(run, classes, positive) for run in side] for side in (runs, others))
    return about | {
        name: paired([s[name] for s in found], [s[name] for s in found_others], intervals[name]) for name in MAIN
    }


def result_lines(results: dict[str, Any], output: Path, unchanged: bool) -> list[str]:
    """For people: where the results stand, and the main scores."""
    runs = len(results["runs"])
    what = results.get("f1_is", "Dice and IoU of an image.")
    done = f"{', '.join(results['start'])}: {runs} run{'s' if runs > 1 else ''}, {what} -> {output}"
    first = f"unchanged: {output}" if unchanged else done
    lines = [first, *(f"{NAMES[name]:12s}{score_text(results[name])}" for name in NAMES if name in results)]
    if "sensitivity" in results:
        lines.append("F1 and accuracy: by the likelier class; sensitivity and specificity: from Youden's threshold on")
    return lines


def positive_lines(request: Request, table: Table) -> list[str]:
    """Which class the scores are of, and that it was not chosen by the user."""
    if len(table.classes) != 2:
        return []
    place = request.positive_in(table)
    other = f", the second by name (--positive {table.classes[1 - place]} for the other)"
    told = other if request.positive is None else ""
    return [f"positive, whose AUC, F1, sensitivity and ROC these are: class {table.classes[place]}{told}"]


def comparison_lines(compared: dict[str, Any]) -> list[str]:
    """For people: what `compare` found."""
    lines = [f"{compared['first']} less {compared['second']}, {len(compared['seeds'])} runs of the same seeds:"]
    return lines + [f"{NAMES[name]:12s}{score_text(compared[name], '+.4f')}" for name in NAMES if name in compared]
