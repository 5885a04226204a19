"""Tariq et al.'s Table II: each pretext task trained on one store and scored on a store of other patients.

OUTPUT/pretrain/RUN     a run of `lim-gpu pretrain` a task; masked twice: the curriculum, and one share of as many steps
OUTPUT/analyse/ROW.png  `lim-gpu analyse pretext` of each row of the table
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from os.path import expanduser
from pathlib import Path
from typing import Any

from lim_gpu.analyse.pretext import pretext
from lim_gpu.errors import UsageError
from lim_gpu.evaluate.equal import options_of
from lim_gpu.evaluate.grid import Grid
from lim_gpu.evaluate.smoke import pretext_grid
from lim_gpu.files import locked, read_toml, write_json, write_text
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.run import pretrain
from lim_gpu.progress import Outcome, Reporter

NAME = "T2"
TRAIN, HELD_OUT = "train", "held-out"
SHARES = (0.05, 0.1, 0.2, 0.33)
CONTROL = 0.2  # masked throughout, in as many steps as the curriculum takes
METRICS = {"mse": "MSE", "masked_mse": "masked MSE", "ssim": "SSIM", "cross_entropy": "cross-entropy"} | {
    "softmax_twice": "softmax twice",
    "auroc": "AUROC",
}
CAVEATS = (
    "ours: mean ± sd (ddof 1) over the volumes that were held out; the paper: over 128 volumes of its own",
    "without a network: copying the slice, leaving the square black, a median of 5 x 5 pixels, guessing",
    "the paper's cross-entropies are of a softmax taken twice, whose floor is .7436 for four turns and .5514 for three",
    f"each stage of the curriculum was trained for longer than the one before; masked {CONTROL:g} alone as long as all",
)


@dataclass(frozen=True)
class Row:
    """A row of the table: the run whose checkpoint it is of, and after how many epochs (None: the last)."""

    name: str
    run: str
    epoch: int | None = None


def evaluate_pretext(
    output: Path,
    *,
    config: Path | None = None,
    smoke: bool = False,
    plan: bool = False,
    device: str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Outcome:
    """Train, score and write OUTPUT/pretext.md and .json. Runs and scores that stand are not made again.

    config  a TOML file: [stores] train and held-out, [pretrain] options of that verb and `set`; or smoke: phantoms
    plan    only list the runs

    Raises UsageError for a contradictory call, InputError for a configuration that cannot be read.
    """
    reporter = reporter or Reporter(quiet=True)
    if smoke == (config is not None):
        raise UsageError("give --config grid.toml or --preset smoke")
    grid = read_stores(config) if config is not None else pretext_grid(output / "data", seed, reporter)
    if plan:
        outcomes = [_train(grid, run, output, device, seed, True, reporter) for run in runs()]
        values = {"runs": [outcome.values for outcome in outcomes]}
        return Outcome(values, [line for outcome in outcomes for line in outcome.lines])
    with locked(output):
        for run in runs():
            _train(grid, run, output, device, seed, False, reporter)
        scored = {row.name: _score(grid, row, output, device, seed, reporter) for row in rows(grid)}
    return _written(output, grid, scored, seed)


def read_stores(path: Path) -> Grid:
    """The stores and options of a TOML file; paths are relative to it. Raises InputError or UsageError, naming it."""
    values = read_toml(path)
    stores = values.get("stores", {})
    if set(values) - {"stores", "pretrain"} or not isinstance(stores, dict) or set(stores) != {TRAIN, HELD_OUT}:
        raise UsageError(f"{path}: give [stores] with {TRAIN} and {HELD_OUT}, and [pretrain]")
    found = {name: path.parent / expanduser(str(store)) for name, store in stores.items()}
    return Grid(found, (), pretrain={"preset": "tariq2024-paper"} | values.get("pretrain", {}))


def runs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name, method and settings of every training."""
    masked = {"masked": SHARES, f"masked-{CONTROL:g}": (CONTROL,)}
    found: dict[str, tuple[str, dict[str, Any]]] = {"next-slice": ("next-slice", {})}
    found |= {name: ("masked", {"reconstruct.shares": shares}) for name, shares in masked.items()}
    return found | {name: (name, {}) for name in ("denoise", "rotation", "flip")}


def rows(grid: Grid) -> list[Row]:
    """The table's rows, in the paper's order, the control behind the curriculum."""
    options, overrides = _options(grid, "masked")
    given = {name: options[name] for name in ("epochs",) if name in options}
    stages = resolve("masked", options["preset"], given | overrides).stages
    curriculum = [Row(f"masked {share:g}", "masked", epoch) for epoch, share in stages.items()]
    control = Row(f"masked {CONTROL:g} alone", f"masked-{CONTROL:g}")
    return [
        Row("next-slice", "next-slice"),
        *curriculum,
        control,
        *(Row(n, n) for n in ("denoise", "rotation", "flip")),
    ]


def _options(grid: Grid, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    method, settings = runs()[run]
    options, overrides = options_of(grid, method)
    return options, overrides | settings


def _train(grid: Grid, run: str, output: Path, device: str, seed: int, plan: bool, reporter: Reporter) -> Outcome:
    options, overrides = _options(grid, run)
    reporter.note(f"pretrain {run}")
    where: dict[str, Any] = {"device": device, "seed": seed, "resume": True, "dry_run": plan}
    quiet = Reporter(quiet=True)
    folder = output / "pretrain" / run
    return pretrain(
        grid.stores[TRAIN], runs()[run][0], output=folder, overrides=overrides, reporter=quiet, **options, **where
    )


def _score(grid: Grid, row: Row, output: Path, device: str, seed: int, reporter: Reporter) -> dict[str, Any]:
    reporter.note(f"analyse {row.name}")
    name = "last.ckpt" if row.epoch is None else f"epoch={row.epoch}.ckpt"
    folder = output / "analyse"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{row.name.replace(' ', '-')}.png"
    checkpoint = output / "pretrain" / row.run / name
    quiet = Reporter(quiet=True)
    how: dict[str, Any] = {"seed": seed, "device": device, "overwrite": True, "reporter": quiet}
    return pretext(checkpoint, grid.stores[HELD_OUT], picture, **how).values


def table(scored: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line a row and metric: ours, without a network, the paper's."""
    published = json.loads(resources.files("lim_gpu.evaluate").joinpath("tariq2024.json").read_text(encoding="utf-8"))
    lines = [["task", "score", "network", "without a network", "paper"]]
    for name, values in scored.items():
        for metric, title in METRICS.items():
            if metric not in values["scores"]:
                continue
            network, trivial = (_cell(one["mean"], one["sd"]) for one in values["scores"][metric].values())
            paper = published["rows"].get(name.removesuffix(" alone"), {}).get(metric)
            lines.append([name, title, network, trivial, _cell(*paper) if paper else ""])
    return lines


def _cell(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" + (f" ± {sd:.4f}" if sd else "")


def _written(output: Path, grid: Grid, scored: dict[str, dict[str, Any]], seed: int) -> Outcome:
    head, *body = (f"| {' | '.join(line)} |" for line in table(scored))
    notes = [
        *CAVEATS,
        *grid.caveats,
        f"trained on {grid.stores[TRAIN]}, scored on {grid.stores[HELD_OUT]}, seed {seed}",
    ]
    lines = ["## Evaluation T2: pretext tasks (Table II)", "", head, "| --- | --- | --- | --- | --- |", *body, ""]
    lines += ["## What to know", "", *(f"- {note}" for note in notes), ""]
    values = {"format": "lim-gpu-evaluation", "version": 1, "rows": scored, "caveats": notes, "failures": []}
    values |= {"versions": {name: version(name) for name in ("lim-gpu", "torch", "torchvision")}}
    write_json(output / "pretext.json", values)
    write_text(output / "pretext.md", "\n".join(lines))
    return Outcome(values, [*lines, f"-> {output / 'pretext.md'}, pretext.json"])
