"""Selections of one store beside each other: what they keep, what they share, and what every metric says of them.

One every-n and one random at each budget (the numbers kept of the volumes) always stand beside, so that a gain over no
thought at all is seen; a selection that is one of them already stands for it.
For each metric, over the volumes of which a selection keeps something, the means of

    mean, highest     similarity of the pairs of kept slices: less is better
    covered, coverage similarity of the dropped slices to their nearest kept ones within the volume, their mean and that
                      of the farthest: more is better (the objectives of facility location and of k-center)

and for each two selections |A and B| / |A or B| of the kept slices, as the paper's overlap of methods. Metrics see the
slices as the paper does, each from its own minimum to its maximum, whatever intensity the selections were made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import csv_text, fingerprint, replacing, write_json, write_text
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_file, standing_record
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.pruning.rules import every_n, random_choice, to_numpy
from lim_gpu.reduction.criterion import Criterion, weights_identity
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.request import BASELINES, SIMILARITIES, Request
from lim_gpu.reduction.run import standing_selection, write_selection
from lim_gpu.report.compare_picture import comparison_picture
from lim_gpu.report.compare_table import table
from lim_gpu.report.compared import FIGURES, Compared, Kept, overlap
from lim_gpu.report.page import made_by
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume


def compare(
    selections: Sequence[Path],
    output: Path,
    *,
    store: Path | None = None,
    methods: Sequence[str] = (),
    rules: Sequence[str] = (),
    keep: float | None = None,
    threshold: float | None = None,
    weights: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter,
) -> Outcome:
    """Compare selections of one store, or what `methods` select from `store`; write OUTPUT (.csv), .json and .png.

    Each of `rules` selects by each of `methods`, greedy where none is given.
    The metrics are SSIM, MI and HASH, and DeepNet where `weights` are given. What `methods` select is kept in
    OUTPUT.selections, from which an interrupted run goes on. dry_run: check all, and name the outputs. What stands
    there and was made of the same is left. Raises UsageError for a contradictory call or another existing output
    without `overwrite`, InputError for selections of different stores.
    """
    paths = [output, output.with_suffix(".json"), output.with_suffix(".png")]
    if output.suffix != ".csv":
        raise UsageError(f"{output}: give a name that ends in .csv")
    if bool(selections) == bool(methods):
        raise UsageError("give selections, or a store with --method")
    if rules and not methods:
        raise UsageError("--rule says how --method selects. Give one")
    asked = [(method, rule) for method in methods for rule in rules or ("greedy",)]
    requests = {_name(*one): _request(*one, keep, threshold, weights, seed) for one in asked}
    check_gpu(device)
    check_file(output)
    loaded = {path.stem: Selection.load(path) for path in selections}
    if len(loaded) != len(selections):
        raise UsageError("two selections have one name. Rename one")
    metrics = [metric for metric in SIMILARITIES if metric != "deepnet" or weights is not None]
    with _store(loaded, selections, store) as opened:
        made_of = _made_of(opened, loaded, [*requests.values()], seed, weights)
        standing = standing_record(paths[1], made_of, paths, overwrite)
        if standing is not None:
            lines = [f"unchanged: {output}", *table(standing, metrics)]
            return Outcome(standing | {"unchanged": True}, lines, skipped=bool(standing.get("failed")))
        if dry_run:
            return _planned([*map(str, selections), *requests], paths)
        for name, request in requests.items():
            csv_path = output.with_suffix(".selections") / f"{name}.csv"
            made = standing_selection(opened, request, csv_path, overwrite=True)
            loaded[name] = made or write_selection(opened, request, csv_path, device, reporter)
        compared = [_kept(name, selection) for name, selection in loaded.items()]
        compared += _baselines(compared, opened, seed)
        failed = _measure(compared, opened, [_criterion(metric, weights) for metric in metrics], device, reporter)
    if not any(one.mean or one.coverage for one in compared):
        raise InputError(f"{opened.path}: no volume of the selections has two slices to compare. Give other ones")
    values = _values(compared, metrics, seed) | {"failed": failed, "fingerprint": made_of}
    _write(paths, values, compared, metrics)
    lines = [*table(values, metrics), f"-> {output}, {paths[1].name}, {paths[2].name}"]
    return Outcome(values, lines, skipped=bool(failed))


def _made_of(
    store: SliceStore, loaded: dict[str, Selection], requests: Sequence[Request], seed: int, weights: Path | None
) -> str:
    told = [[name, one.record["csv_sha256"]] for name, one in loaded.items()]
    asked = [made_by("compare*.py"), store.fingerprint, told, [request.parameters() for request in requests]]
    return fingerprint([*asked, seed, weights_identity(weights) if weights else None])


def _write(paths: Sequence[Path], values: dict[str, Any], compared: list[Compared], metrics: Sequence[str]) -> None:
    csv_path, json_path, picture = paths
    with replacing(picture) as temporary:
        comparison_picture(compared, metrics).savefig(temporary, format="png", dpi=110)
    write_text(csv_path, _csv(values))
    write_json(json_path, values)  # last: it says that the others are whole


def _criterion(method: str, weights: Path | None) -> Criterion:
    return Criterion(method, Intensity.parse(), weights=weights if method == "deepnet" else None)


def _name(method: str, rule: str) -> str:
    return method if rule == "greedy" else f"{method}-{rule}"


def _request(
    method: str, rule: str, keep: float | None, threshold: float | None, weights: Path | None, seed: int
) -> Request:
    if method in BASELINES:
        raise UsageError(f"--method {method}: the baselines stand beside by themselves. Leave it out")
    return Request(_criterion(method, weights), keep, None, threshold, rule=rule, seed=seed)


def _planned(asked: Sequence[str], paths: Sequence[Path]) -> Outcome:
    outputs = [str(path) for path in paths]
    return Outcome({"dry_run": True, "outputs": outputs}, [f"plan: {', '.join(asked)} -> {', '.join(outputs)}"])


def _store(loaded: dict[str, Selection], paths: Sequence[Path], store: Path | None) -> SliceStore:
    if store is None:
        if not paths:
            raise UsageError("--method selects from a store. Give one")
        store = loaded[paths[0].stem].store_path
    opened = SliceStore(store)
    for selection in loaded.values():
        selection.check_store(opened)
    return opened


def _kept(name: str, selection: Selection) -> Compared:
    kept = {volume.key: np.flatnonzero(volume.kept) for volume in selection.volumes}
    return Compared(name, selection.record["method"], kept, float(selection.record["seconds"]))


def _baselines(compared: Sequence[Compared], store: SliceStore, seed: int) -> list[Compared]:
    """Every-n and random with as many slices of each volume as a selection keeps there, for each different budget."""
    budgets: dict[tuple[tuple[str, int], ...], list[Compared]] = {}
    for one in compared:
        budgets.setdefault(tuple((key, len(kept)) for key, kept in one.kept.items()), []).append(one)
    found = []
    for budget, same in budgets.items():
        like = f" like {same[0].name}" if len(budgets) > 1 else ""
        for method in ("every-n", "random"):
            if method not in {one.method for one in same}:
                found.append(Compared(f"{method}{like}", method, _chosen(method, budget, store, seed), None))
    return found


def _chosen(method: str, budget: Sequence[tuple[str, int]], store: SliceStore, seed: int) -> Kept:
    kept: Kept = {}
    for place, (key, count) in enumerate(budget):
        n = store[key].entry.shape[0]
        if not count:
            kept[key] = np.zeros(0, dtype=np.int64)
        elif method == "every-n":
            kept[key] = every_n(n, keep_count=count)
        else:
            kept[key] = random_choice(n, [seed, place], keep_count=count)
    return kept


def _measure(
    compared: list[Compared],
    store: SliceStore,
    metrics: Sequence[Criterion],
    device: str,
    reporter: Reporter,
) -> int:
    """Take what each metric says of each volume; returns how often one could not."""
    from lim_gpu.similarity import resolve_device

    place = resolve_device(device)
    engines = {criterion.method: StoredMatrix(criterion, place) for criterion in metrics}
    keys = [entry.key for entry in store.volumes if all(entry.key in one.kept for one in compared)]
    failed = 0
    with reporter.track("compare", len(keys), "volumes") as advance:
        for key in keys:
            with store[key] as volume:
                for metric, engine in engines.items():
                    try:
                        _measure_volume(compared, volume, metric, engine)
                    except UnreadableVolumeError as error:  # or too small for this metric
                        reporter.error(error)
                        failed += 1
            advance(1)
    return failed


def _measure_volume(compared: list[Compared], volume: Volume, metric: str, engine: StoredMatrix) -> None:
    matrix = to_numpy(engine.compute([volume]))
    for one in compared:
        one.add(metric, matrix, one.kept[volume.key])


def _values(compared: list[Compared], metrics: Sequence[str], seed: int) -> dict[str, Any]:
    rows = []
    for one in compared:
        counts = [len(kept) for kept in one.kept.values()]
        row: dict[str, Any] = {"name": one.name, "kept": sum(counts), "seconds": one.seconds}
        for metric in metrics:
            for what in FIGURES:
                values = getattr(one, what).get(metric, [])
                row[f"{metric}_{what}"] = round(float(np.mean(values)), 6) if values else None
        rows.append(row)
    shared = [[round(overlap(a.kept, b.kept), 6) for b in compared] for a in compared]
    volumes = len(compared[0].kept)
    return {
        "format": "lim-gpu-compare",
        "version": 1,
        "volumes": volumes,
        "seed": seed,
        "rows": rows,
        "overlap": shared,
    }


def _csv(values: dict[str, Any]) -> str:
    names = [row["name"] for row in values["rows"]]
    pairs = zip(values["rows"], values["overlap"], strict=True)
    rows = ([*row.values(), *overlap] for row, overlap in pairs)  # None is written as nothing
    return csv_text([*values["rows"][0], *(f"overlap_{name}" for name in names)], rows)
