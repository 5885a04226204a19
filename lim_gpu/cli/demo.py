"""The demonstration: procedural CT volumes, ingested, reduced with every method, and a report of what was kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError, unwritable
from lim_gpu.files import replacing
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.labels.angiograms import make_angiograms
from lim_gpu.outputs import check_folder
from lim_gpu.phantom import DATA_SET, EMBOLI, write_data_set
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.matrix_verb import write_matrix
from lim_gpu.reduction.run import reduce
from lim_gpu.report import write_report
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore

KEEP = 0.1
SHOWN = ("ssim", "mi", "hash")  # of the report
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("all", {}),
    ("every-n", {"keep": KEEP}),
    ("random", {"keep": KEEP}),
    ("ssim", {"keep": KEEP}),
    ("mi", {"keep": KEEP}),
    ("deepnet", {"keep": KEEP}),
    ("hash", {"keep": KEEP}),
    ("hash", {"threshold": 6}),
    ("hash", {"threshold": 6, "rule": "leader"}),
)
WEIGHTS = "resnet50-random-seed-{seed}-not-imagenet.pth"


def run_demo(
    folder: Path,
    seed: int,
    device: str,
    reporter: Reporter,
    *,
    angiograms: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Make, ingest and reduce the data set under `folder`; what stands there already is not made again.

    angiograms: make a second store, of chests after contrast, and labels of their emboli and nodules.
    Raises UsageError for a folder that holds anything but an earlier demo, unless `overwrite`, LimGpuError for one that
    cannot be made.
    """
    check_folder(folder)
    foreign = folder.exists() and {path.name for path in folder.iterdir()} - {"sources"}
    if foreign and not (folder / "sources" / "phantom.json").exists() and not overwrite:
        raise UsageError(f"{folder}: holds other files. Choose a new -o, or give --overwrite")
    if dry_run:
        line = f"plan: {len(DATA_SET)} procedural volumes, a store, {len(RUNS)} selections and a report in {folder}"
        line += "; angiograms and labels of their emboli and nodules" if angiograms else ""
        return Outcome({"dry_run": True, "folder": str(folder)}, [line])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    reporter.note(f"making {len(DATA_SET)} procedural CT volumes in {folder}")
    write_data_set(folder / "sources", seed)
    weights = _seeded_weights(folder / WEIGHTS.format(seed=seed), seed)
    ingest([folder / "sources"], folder / "slices", keep_identifiers=True, overwrite=True, reporter=reporter)
    with SliceStore(folder / "slices") as store:
        runs = [_reduced(store, method, options, weights, folder, seed, device, reporter) for method, options in RUNS]
        picture = folder / "matrix.png"
        longest = max(store.volumes, key=lambda entry: entry.shape[0])
        write_matrix(store, longest.key, Criterion("ssim", Intensity.parse()), device, KEEP, picture)
        table = _table([_short_name(entry.name) for entry in store.volumes], runs)
    report = folder / "report.html"
    shown = [run.output for run in runs if run.method in SHOWN and run.options == {"keep": KEEP}]
    write_report(shown, report, overwrite=True, reporter=reporter)
    values = {
        "report": str(report),
        "picture": str(picture),
        "store": str(folder / "slices"),
        "selections": {str(run.output): run.selection.record["counts"] for run in runs},
    }
    places = (
        ("store", folder / "slices"),
        ("selections", folder / "selections"),
        ("picture", picture),
        ("report", report),
    )
    lines = [*table, "", *(f"{what:12s}{path}" for what, path in places)]
    if angiograms:
        values["angiograms"] = str(folder / "angiograms")
        lines += _angiograms(folder, seed, reporter)
    return Outcome(values, lines)


def _angiograms(folder: Path, seed: int, reporter: Reporter) -> list[str]:
    """A store of chests after contrast, and a table of labels of each finding; how they are learnt from."""
    store, tables = make_angiograms(folder, seed, reporter)
    call = f"lim-gpu finetune {store} --labels {tables[EMBOLI]} --window angio --folds 2 -o emboli-run"
    places = {"angiograms": store} | tables | {"try": call}
    return [f"{what:12s}{where}" for what, where in places.items()]


@dataclass(frozen=True)
class _Run:
    method: str
    options: dict[str, Any]
    selection: Selection
    output: Path

    @property
    def asked(self) -> str:
        return " ".join(f"{key} {value}" for key, value in self.options.items())


def _reduced(
    store: SliceStore,
    method: str,
    options: dict[str, Any],
    weights: Path,
    folder: Path,
    seed: int,
    device: str,
    reporter: Reporter,
) -> _Run:
    reporter.note(" ".join(["reduce", method, *(f"{key} {value}" for key, value in options.items())]))
    output = folder / "selections" / f"{'-'.join([method, *map(str, options.values())])}.csv"
    more: dict[str, Any] = {"weights": weights} if method == "deepnet" else {}
    more |= {"seed": seed, "device": device, "output": output, "overwrite": True, "reporter": reporter}
    return _Run(method, options, reduce(store, method, **options, **more), output)


def _short_name(name: str) -> str:
    """The phantom's name within that of its source."""
    return next((volume.name for volume in DATA_SET if volume.name in name), name)


def _table(names: list[str], runs: list[_Run]) -> list[str]:
    """A line a run: the kept slices of each volume, in store order, and of all."""
    lines = [_row("method", "asked", [*names, "all"], "seconds")]
    for run in runs:
        counts = run.selection.record["counts"]
        cells = [f"{volume.kept.sum()}/{len(volume.kept)}" for volume in run.selection.volumes]
        total = f"{counts['kept']}/{counts['slices']}"
        lines.append(_row(run.method, run.asked, [*cells, total], f"{run.selection.record['seconds']:.2f}"))
    lines.append("deepnet ran on seeded random weights, not ImageNet's: its choice shows that it works, not how well")
    return lines


def _row(method: str, asked: str, cells: list[str], seconds: str) -> str:
    return f"{method:9s}{asked:25s}" + "".join(f"{cell:>9s}" for cell in cells) + f"{seconds:>9s}"


def _seeded_weights(path: Path, seed: int) -> Path:
    """A ResNet50 of random weights, always the same, so that the demo needs no download."""
    if path.exists():
        return path
    import torch
    from torchvision.models import resnet50

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet50(weights=None)
    with replacing(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return path
