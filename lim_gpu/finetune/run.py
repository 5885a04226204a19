"""A fine-tuning from data to results: runs over splits and initial weights, each done once, in one folder.

Loads torch when it trains.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import UsageError
from lim_gpu.files import locked, read_json, remove_stale, write_json
from lim_gpu.finetune.data import read_data
from lim_gpu.finetune.folder import RunFolder
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.results import compare, comparison_lines, positive_lines, read_finished, result_lines, sizes
from lim_gpu.finetune.splits import splits_of
from lim_gpu.labelled.table import Table
from lim_gpu.outputs import check_folder
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.weights.file import CheckpointFile


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
    check_gpu(device)
    check_folder(output)
    table = read_data(request, reporter)
    request.positive_in(table)
    with ExitStack() as opened:
        files = [opened.enter_context(CheckpointFile(path, trust=request.trust)) for path in request.checkpoints]
        parameters = request.parameters([file.sha256 for file in files])
        folder = RunFolder(output, parameters, table.fingerprint())
        finished = folder.standing(overwrite)
        if against is not None:
            read_finished(against)
        if dry_run:
            for file in files:
                file.check_kind()
            return _plan(request, table, output, finished)
        if not finished:
            _do(request, table, folder, files, device, reporter)
    return _outcome(request, table, folder, finished, against)


def _do(
    request: Request, table: Table, folder: RunFolder, files: list[CheckpointFile], device: str, reporter: Reporter
) -> None:
    from lim_gpu.finetune.segment_work import Segmenter
    from lim_gpu.finetune.starts import read_starts
    from lim_gpu.finetune.work import Worker, work
    from lim_gpu.weights.backbone import training_device

    place = training_device(device)
    starts = read_starts(request, files, reporter)  # before anything is written
    epochs, head_epochs = request.protocol.epochs, request.protocol.head_epochs
    probe = epochs == head_epochs and request.protocol.frozen
    if epochs <= head_epochs and not probe:
        alone = f"--epochs {epochs} with --head-epochs {head_epochs}"
        reporter.warn(f"{alone}: only the last layer trains. Give more epochs, or fewer head epochs")
    with locked(folder.path):
        remove_stale(folder.path)
        folder.clear()
        work(request, table, folder, starts, place, reporter, Segmenter if request.segments else Worker)


def _outcome(request: Request, table: Table, folder: RunFolder, unchanged: bool, against: Path | None) -> Outcome:
    """What stands in the folder, and the difference to another where that is asked for."""
    results = read_json(folder.results)
    values = results | {"output": str(folder.path), "unchanged": unchanged}
    lines = result_lines(results, folder.path, unchanged) + positive_lines(request, table)
    if against is not None:
        compared = compare(folder.path, against)
        write_json(folder.path / "comparison.json", compared)
        values["comparison"] = compared
        lines += comparison_lines(compared)
    return Outcome(values, lines)


def _plan(request: Request, table: Table, output: Path, finished: bool) -> Outcome:
    """What would be done."""
    protocol, starts = request.protocol, request.starts()
    splits = splits_of(request, table, table.groups())
    counts = table.counts(np.arange(len(table)))
    batches = sum(math.ceil(len(split.train) / protocol.batch_size) for split in splits)
    steps = batches * protocol.epochs * len(starts)
    runs = [sizes(split) for split in splits]
    values = {"dry_run": True, "images": len(table), "classes": counts, "runs": runs, "starts": starts}
    values |= {"steps": steps, "protocol": protocol.describe(), "unchanged": finished}
    of_each = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines = [
        f"plan: {counted(len(table), 'image')} ({of_each}) -> {output}",
        f"initial weights: {', '.join(starts)}",
        *(f"run {s['run']}: seed {s['seed']}, train {s['train']}, val {s['val']}, test {s['test']}" for s in runs),
        f"{protocol.name}: {counted(protocol.epochs, 'epoch')} a run, {steps:,} steps in all",
        *positive_lines(request, table),
    ]
    return Outcome(values, lines + ([f"unchanged: {output}"] if finished else []))
