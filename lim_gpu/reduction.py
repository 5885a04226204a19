"""The reduce stage: from a store to a selection, one unit (a volume, a patient, or the data set) after another.

Every finished unit is a file, so that an interrupted run goes on where it stopped; the selection is compiled from those
files alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lim_gpu.choice import choose
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint, locked, remove_stale
from lim_gpu.intensity import Intensity
from lim_gpu.parts import UnitResult, load_part, save_part
from lim_gpu.progress import Reporter
from lim_gpu.pruning import count_to_keep
from lim_gpu.request import ALGORITHM, BASELINES, SIMILARITIES, Request, Unit, units_of
from lim_gpu.selection import FORMAT, VERSION, Selection, VolumeSelection, read_record, relative_path, selection_paths
from lim_gpu.store import SliceStore
from lim_gpu.stored_matrix import Criterion, StoredMatrix, UnreadableVolumeError


def reduce(
    store: SliceStore,
    method: str,
    *,
    keep: float | None = None,
    keep_count: int | None = None,
    threshold: float | None = None,
    scope: str = "volume",
    rule: str = "greedy",
    order: str = "spatial",
    intensity: Intensity | None = None,
    bins: int = 100,
    features: str = "logits",
    weights: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Selection:
    """Select the slices of every volume of `store` that stay.

    method      "all", "every-n", "random", "ssim", "mi", "deepnet" or "hash" (Wolf et al. 2024, section 2.1)
    keep        fraction of each unit that stays, 0 < keep <= 1; or keep_count, a whole number
    threshold   in the method's own unit: HASH in bits 0..64, a slice goes at a distance <= threshold; SSIM -1..1,
                MI 1..2, DeepNet -1..1, a slice goes at a similarity >= threshold. HASH takes 6 where nothing is said
    scope       "volume", "patient" or "dataset": what is pruned together, and what keep counts
    rule        "greedy" (the paper's text) or "leader" (the authors' script)
    order       "spatial" or "lexicographic" (slice numbers sorted as text, as the authors' file names sort)
    intensity   how HU become 0..255; default: each slice's own minimum..maximum
    output      NAME.csv: the selection is written there, with NAME.json, and NAME.parts from which a run resumes

    Returns the selection. Volumes that cannot be read are left out and listed in `record["failures"]`.
    Raises UsageError for a contradictory call or an existing output of other parameters, InputError when no volume can
    be read, NoGpuError when `device` asks for a GPU that is not there.
    """
    weights = Path(weights) if weights is not None else None
    criterion = Criterion(method, intensity or Intensity.parse(), bins, features, weights)
    request = Request(criterion, keep, keep_count, threshold, scope, rule, order, seed)
    reporter = reporter or Reporter(quiet=True)
    if output is None:
        return _run(store, request, device, None, reporter)
    csv_path, _ = selection_paths(output)
    standing = standing_selection(store, request, csv_path, overwrite)
    if standing is not None:
        reporter.note(f"unchanged: {csv_path}")
        return standing
    parts = csv_path.with_suffix(".parts")
    with locked(parts):
        remove_stale(parts)
        selection = _run(store, request, device, parts, reporter)
        selection.record["store"]["path"] = relative_path(store.path, csv_path.parent)
        selection.save(csv_path)
    return selection


def standing_selection(store: SliceStore, request: Request, csv_path: Path, overwrite: bool) -> Selection | None:
    """The selection at `csv_path` when it is whole and of this request; None when there is nothing there to keep.

    Raises UsageError when something else stands there and `overwrite` is not given.
    """
    _, json_path = selection_paths(csv_path)
    if not csv_path.exists() and not json_path.exists():
        return None
    try:
        same = read_record(json_path).get("fingerprint") == run_fingerprint(store, request)
        selection = Selection.load(csv_path) if same else None
    except InputError:
        if not csv_path.exists():  # the JSON is renamed first: a run was interrupted between the two
            return None
        same, selection = False, None
    if selection is not None:
        return None if selection.record["failures"] else selection
    if not overwrite:
        raise UsageError(f"{csv_path}: exists and was made otherwise. Give --overwrite, or another -o")
    return None


def run_fingerprint(store: SliceStore, request: Request) -> str:
    """Of the store, the parameters and the algorithm: equal for runs whose selections are equal."""
    return fingerprint([ALGORITHM, store.fingerprint, request.parameters()])


def _run(store: SliceStore, request: Request, device: str, parts: Path | None, reporter: Reporter) -> Selection:
    start = time.perf_counter()
    engine = _engine(request, device, reporter)
    units = units_of(store.volumes, request.scope)
    _say_once(store, units, request, reporter)
    results: list[UnitResult] = []
    failures: list[dict[str, str]] = []
    reused = 0
    with reporter.track(f"reduce {request.method}", sum(unit.slices for unit in units), "slices") as advance:
        for unit in units:
            result = load_part(parts, unit.name, unit.fingerprint(request)) if parts else None
            reused += result is not None
            result = result or _reduce_unit(store, unit, request, engine, parts, failures, reporter)
            if result is not None:
                results.append(result)
            advance(unit.slices)
    if reused:
        reporter.note(f"{reused} of {len(units)} units were done already")
    if not results:
        raise InputError(f"{store.path}: no volume can be read. Run lim-gpu ingest again")
    if missed := _missed(results, request):
        reporter.warn(f"{missed} of {len(results)} units keep more than was asked: the rest cannot be compared")
    record = _record(store, request, results, failures, engine, time.perf_counter() - start)
    return Selection(_in_store_order(store, results), record)


def _engine(request: Request, device: str, reporter: Reporter) -> StoredMatrix | None:
    """None for the baselines: they read no pixels and load no torch."""
    if request.method in BASELINES:
        return None
    from lim_gpu.similarity import resolve_device

    return StoredMatrix(request.criterion, resolve_device(device))


def _say_once(store: SliceStore, units: Sequence[Unit], request: Request, reporter: Reporter) -> None:
    """What the result depends on and the options do not tell."""
    if request.method in ("ssim", "mi") and any(len({e.shape[1:] for e in unit.volumes}) > 1 for unit in units):
        reporter.warn(f"{request.method} compares slices of equal shape only: other pairs are skipped")
    grey = sum(entry.dtype == "uint8" for entry in store.volumes)
    if grey and request.method not in BASELINES and request.criterion.intensity.limits is not None:
        reporter.warn(f"{grey} volumes hold grey values, not HU: they are taken as they are, without the window")


def _missed(results: Sequence[UnitResult], request: Request) -> int:
    """Units that kept more than was asked for, because what is left cannot be compared."""
    if request.method not in SIMILARITIES or (request.keep is None and request.keep_count is None):
        return 0
    asked = (count_to_keep(len(result.z), request.keep, request.keep_count) for result in results)
    reached = (request.threshold is None and len(result.kept) > n for result, n in zip(results, asked, strict=True))
    return sum(reached)


def _reduce_unit(
    store: SliceStore,
    unit: Unit,
    request: Request,
    engine: StoredMatrix | None,
    parts: Path | None,
    failures: list[dict[str, str]],
    reporter: Reporter,
) -> UnitResult | None:
    """Reduce a unit; a volume that cannot be read is listed and the rest of its unit goes on without it."""
    entries = unit.volumes
    while entries:
        volumes = [store[entry.key] for entry in entries]
        remaining = Unit(unit.name, unit.place, entries)
        try:
            result = choose(remaining, volumes, request, engine)
        except UnreadableVolumeError as error:
            reporter.error(error)
            failures.append({"volume": error.key, "cause": str(error)})
            entries = tuple(entry for entry in entries if entry.key != error.key)
            continue
        finally:
            for volume in volumes:
                volume.close()
        if parts:
            save_part(parts, remaining.fingerprint(request), result)
        return result
    return None


def _in_store_order(store: SliceStore, results: Sequence[UnitResult]) -> tuple[VolumeSelection, ...]:
    by_key = {volume.key: volume for result in results for volume in result.split()}
    return tuple(by_key[entry.key] for entry in store.volumes if entry.key in by_key)


def _record(
    store: SliceStore,
    request: Request,
    results: Sequence[UnitResult],
    failures: list[dict[str, str]],
    engine: StoredMatrix | None,
    seconds: float,
) -> dict[str, Any]:
    units = [
        {
            "unit": result.unit,
            "volumes": [key for key, _n in result.volumes],
            "slices": len(result.z),
            "kept": len(result.kept),
            "resolved_threshold": result.resolved_threshold,
            "borderline": result.borderline,
            "device": result.device,
            "seconds": result.seconds,
        }
        for result in results
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": request.method,
        "parameters": request.parameters(),
        "fingerprint": run_fingerprint(store, request),
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "counts": {
            "volumes": sum(len(result.volumes) for result in results),
            "slices": sum(len(result.z) for result in results),
            "kept": sum(len(result.kept) for result in results),
            "failed_volumes": len(failures),
        },
        "borderline": sum(result.borderline for result in results),
        "resolved_threshold": _loosest([result.resolved_threshold for result in results], request.method),
        "units": units,
        "failures": failures,
        "device": str(engine.device) if engine else "cpu",
        "versions": _versions(engine is not None),
        "seconds": round(seconds, 3),
    }


def _loosest(resolved: Sequence[float | None], method: str) -> float | None:
    """The threshold beyond which no unit went: the most bits, or the lowest similarity."""
    values = [value for value in resolved if value is not None]
    return (max(values) if method == "hash" else min(values)) if values else None


def _versions(with_torch: bool) -> dict[str, str]:
    names = ["lim-gpu", "numpy", "h5py"] + (["torch", "torchvision", "numba", "pillow"] if with_torch else [])
    return {name: version(name) for name in names}
