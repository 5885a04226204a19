"""The reduce stage: from a store to a selection, one unit (a volume, a patient, or the data set) after another.

Every finished unit is a file, so that an interrupted run goes on where it stopped; the selection is compiled from those
files alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.cluster import Cluster
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import locked, remove_stale
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_file
from lim_gpu.progress import Reporter, counted
from lim_gpu.pruning.ranking import count_to_keep
from lim_gpu.reduction.auto_threshold import with_threshold
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.parts import UnitResult
from lim_gpu.reduction.parts import parts_folder as parts_folder
from lim_gpu.reduction.record import record_of, run_fingerprint
from lim_gpu.reduction.request import BASELINES, SIMILARITIES, Request, request_for
from lim_gpu.reduction.shards import selection_of_shard
from lim_gpu.reduction.share import engines_for, measure_units, reduce_units
from lim_gpu.reduction.standing import Filler, comparable, in_store_order, reduced
from lim_gpu.reduction.unit import Unit
from lim_gpu.reduction.whole import reduce_whole
from lim_gpu.selection import Selection, relative_path, selection_paths, standing
from lim_gpu.shard import Shard
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import check_limits


def reduce(
    store: SliceStore | str | Path,
    method: str,
    *,
    keep: float | None = None,
    keep_count: int | None = None,
    threshold: float | str | None = None,
    scope: str = "volume",
    rule: str = "greedy",
    order: str = "spatial",
    intensity: Intensity | str | None = None,
    window: str | None = None,
    hu_range: str | None = None,
    body: bool = False,
    bins: int = 100,
    features: str = "",
    weights: str | Path | None = None,
    precision: str = "float32",
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    threshold_rule: dict[str, Any] | None = None,
    ray: str | None = None,
    cpus_per_task: int | None = None,
    shard: tuple[int, int] | str | None = None,
    reporter: Reporter | None = None,
) -> Selection:
    """Select the slices of every volume of `store`, a store or its folder, that stay.

    method      "all", "every-n", "random", "ssim", "mi", "deepnet" or "hash" (Wolf et al. 2024, section 2.1)
    keep        fraction of each unit that stays, 0 < keep <= 1; or keep_count, a whole number
    threshold   in the method's own unit: HASH in bits 0..64, a slice goes at a distance <= threshold; SSIM -1..1,
                MI 1..2, DeepNet -1..1, a slice goes at a similarity >= threshold. HASH takes 6 where nothing is said.
                "auto": found from the data, as alike as two augmented views of one slice usually are
    scope       "volume", "patient" or "dataset": what is pruned together, and what keep counts
    rule        "greedy" (the paper's text), "leader" (the authors' script), "facility" (facility location; a budget) or
                "k-center" (a threshold promises that every dropped slice has a kept one at least as alike)
    order       "spatial" or "lexicographic" (slice numbers sorted as text, as the authors' file names sort)
    intensity   how HU become 0..255: an `Intensity`, or "lung", "40,400", "-1000:400"; for MR and PT, which have none,
                "volume-percentile"; default: each slice's own minimum..maximum
    window, hu_range   the same by the names of the command line: "lung" or "LEVEL,WIDTH"; "LO:HI"
    features    of DeepNet: "logits" or "pooled"; where nothing is said pooled of a checkpoint of ours, else logits
    weights     of DeepNet: torchvision's resnet50 for logits; for pooled any backbone, such as RUN/last.ckpt
    body        CT: what lies outside the patient (the table, air, padding) becomes 0
    precision   of DeepNet: "float32", or "bfloat16", which is faster and may select other slices
    device      "auto", "cpu", "cuda" or "cuda:1"; "auto" and "cuda" share the work among all GPUs of the machine
    output      NAME.csv: the selection is written there, with NAME.json, and NAME.parts from which a run resumes
    threshold_rule   how the threshold was found, for the record alone
    ray         the hosts of a Ray cluster do the work: "auto", "local" or "HOST:PORT"; all see `store` at its path
    cpus_per_task    of each process there, 1 by default; one with a GPU reads with as many threads
    shard       (I, N) or "I/N": only every N-th unit is reduced, as others do the rest at the same time; the same call
                without it then makes the selection. What is returned holds these units, and stands in no file

    Returns the selection. Volumes that cannot be read are left out and listed in `record["failures"]`.
    Raises UsageError for a contradictory call, limits in HU on values that are no HU, or an existing output of other
    parameters, InputError when no volume can be read, NoGpuError when `device` asks for a GPU that is not there.
    """
    weights = Path(weights) if weights is not None else None
    seen = Intensity.asked(intensity, window, hu_range, body)
    asked: dict[str, Any] = {"keep": keep, "keep_count": keep_count, "scope": scope, "rule": rule, "order": order}
    criterion = Criterion(method, seen, bins, features, weights, precision)
    request, automatic = request_for(criterion, threshold=threshold, seed=seed, **asked)
    reporter = reporter or Reporter(quiet=True)
    cluster, part = cluster_for(ray, cpus_per_task, device), Shard.asked(shard, ray=ray)
    if part is not None and output is None:
        raise UsageError("`shard` leaves its results beside `output`. Give that, too")
    with nullcontext(store) if isinstance(store, SliceStore) else SliceStore(store) as opened:
        check_units(opened, request)
        if output is not None:
            check_file(selection_paths(output)[0])  # before a threshold is looked for
        if automatic:
            request, threshold_rule = with_threshold(opened, request, device, reporter)
        if output is None:
            selection = _run(opened, request, device, None, reporter, cluster)
            selection.record["threshold_rule"] = threshold_rule
            return selection
        csv_path, _ = selection_paths(output)
        if (found := standing_selection(opened, request, csv_path, overwrite)) is not None:
            reporter.note(f"unchanged: {csv_path}")
            return found
        if part is not None:
            return selection_of_shard(opened, request, csv_path, device, part, reporter)
        return write_selection(opened, request, csv_path, device, reporter, threshold_rule, cluster)


def write_selection(
    store: SliceStore,
    request: Request,
    csv_path: Path,
    device: str,
    reporter: Reporter,
    threshold_rule: dict[str, Any] | None = None,
    cluster: Cluster | None = None,
) -> Selection:
    """Reduce as asked and write `csv_path`, with NAME.json and NAME.parts, from which an interrupted run goes on.

    threshold_rule: how the threshold was found, for the record alone. What stood there is replaced: see
    `standing_selection`. Raises as `reduce`.
    """
    parts = parts_folder(csv_path)
    with locked(parts):
        remove_stale(parts)
        selection = _run(store, request, device, parts, reporter, cluster)
        selection.record["store"]["path"] = relative_path(store.path, csv_path.parent)
        selection.record["threshold_rule"] = threshold_rule
        selection.save(csv_path)
    return replace(selection, path=csv_path)


def standing_selection(store: SliceStore, request: Request, csv_path: Path, overwrite: bool) -> Selection | None:
    """The selection at `csv_path` when it is whole and of this request; None when there is nothing there to keep.

    One that lacks volumes is made again. Raises UsageError when something else stands there without `overwrite`.
    """
    selection = standing(csv_path, run_fingerprint(store, request), overwrite)
    return None if selection is None or selection.record["failures"] else selection


def cluster_for(ray: str | None, cpus_per_task: int | None, device: str) -> Cluster | None:
    """Where a reduction is shared among hosts; None on this machine. Raises UsageError for what contradicts itself."""
    cluster = Cluster.at(ray, cpus_per_task)
    if cluster is not None and device.startswith("cuda:"):
        raise UsageError(f"`device` {device} is of one machine. Give auto, cpu or cuda with `ray`")
    return cluster


def _filler(request: Request, device: str, cluster: Cluster | None, worked: Counter[str]) -> Filler:
    """What reduces the units that are left: the devices of this machine, or hosts, which `worked` counts."""
    if cluster is None:
        engines = engines_for(request, device)
        if request.is_whole and (engine := engines[0]):
            return partial(reduce_whole, measure=partial(measure_units, engines=engines), engine=engine)
        return partial(reduce_units, engines=engines)
    from lim_gpu.reduction.hosts import reduce_on_hosts

    return partial(reduce_on_hosts, cluster=cluster, device=device, worked=worked)


def _run(
    store: SliceStore,
    request: Request,
    device: str,
    parts: Path | None,
    reporter: Reporter,
    cluster: Cluster | None,
) -> Selection:
    start, worked = time.perf_counter(), Counter[str]()
    fill = _filler(request, device, cluster, worked)  # first: a device that is not there ends it all
    units = comparable(store, request)
    _say_once(store, units, request, reporter)
    done = reduced(units, fill, store, request, parts, reporter)
    results = [one.result for one in done if one.result is not None]
    if not results:
        raise InputError(f"{store.path}: no volume can be read. Run lim-gpu ingest again")
    if missed := _missed(results, request):
        what = f"{missed} of {counted(len(results), 'unit')}"
        reporter.warn(f"more is kept than was asked in {what}: the rest cannot be compared")
    if blank := sum(one.blank for one in done):
        remedy = "Give another window or range" if request.criterion.intensity.limits else "Look at their pixels"
        what = f"{counted(blank, 'volume')} of one grey in every slice, mapped to 0..255"
        reporter.warn(f"{what}: all slices count as equal. {remedy}")
    failures = [failure for one in done for failure in one.failures]
    record = record_of(store, request, results, failures, time.perf_counter() - start)
    if cluster is not None:
        record["hosts"] = dict(sorted(worked.items()))
    return Selection(in_store_order(store, results), record)


def _say_once(store: SliceStore, units: Sequence[Unit], request: Request, reporter: Reporter) -> None:
    """What the result depends on and the options do not tell."""
    if request.method in ("ssim", "mi") and any(len({e.shape[1:] for e in unit.volumes}) > 1 for unit in units):
        reporter.warn(f"{request.method} compares slices of equal shape only: other pairs are skipped")
    if said := check_units(store, request):
        reporter.warn(said)


def check_units(store: SliceStore, request: Request) -> str:
    """What to say of the values that are mapped to 0..255, "" for nothing. Raises UsageError for a window on no HU."""
    compares = request.method not in BASELINES
    return check_limits(store.path, store.volumes, request.criterion.intensity) if compares else ""


def _missed(results: Sequence[UnitResult], request: Request) -> int:
    """Units that kept more than was asked for, because what is left cannot be compared."""
    if request.method not in SIMILARITIES or (request.keep is None and request.keep_count is None):
        return 0
    asked = (count_to_keep(len(result.z), request.keep, request.keep_count) for result in results)
    reached = (request.threshold is None and len(result.kept) > n for result, n in zip(results, asked, strict=True))
    return sum(reached)
