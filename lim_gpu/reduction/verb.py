"""What the verb `reduce` does: plan or run, write what is asked for, and say what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.cluster import Cluster
from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import UsageError
from lim_gpu.files import write_text
from lim_gpu.outputs import check_file, check_folder
from lim_gpu.progress import Outcome, Reporter, counted, hosts_in_words
from lim_gpu.pruning.ranking import count_to_keep
from lim_gpu.reduction.auto_threshold import with_threshold
from lim_gpu.reduction.copy import write_selected
from lim_gpu.reduction.plan import make_plan
from lim_gpu.reduction.request import PAPER_HASH_THRESHOLD, SIMILARITIES, Request
from lim_gpu.reduction.run import check_units, parts_folder, standing_selection, write_selection
from lim_gpu.reduction.shards import reduce_shard
from lim_gpu.reduction.unit import in_words, units_of
from lim_gpu.selection import Selection, selection_paths
from lim_gpu.selection.files import kept_list, source_rows
from lim_gpu.shard import Shard
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore


@dataclass(frozen=True)
class Targets:
    """Where a reduction is written: the selection, and if wanted a store of what is kept and a private list of it.

    csv           NAME.csv, with NAME.json and NAME.parts beside it
    store         a new store of the kept slices
    private_list  their source files and SOP UIDs, mode 0600
    overwrite     replace what was made otherwise
    """

    csv: Path
    store: Path | None = None
    private_list: Path | None = None
    overwrite: bool = False


def reduce_verb(
    store_path: Path,
    request: Request,
    targets: Targets,
    *,
    automatic: bool = False,
    device: str,
    cluster: Cluster | None = None,
    shard: Shard | None = None,
    dry_run: bool,
    reporter: Reporter,
) -> Outcome:
    """Reduce as asked, or say what it would cost; a standing selection of the same request is left as it is.

    automatic: the threshold is found from the data, and that of `request` stands for it until then. cluster: whose
    hosts do the work; shard: which share of the units is reduced, and no selection made. Raises as `lim_gpu.reduce`,
    and UsageError for targets that could not be written.
    """
    if cluster is None and request.method in SIMILARITIES:
        check_gpu(device)  # before all else: what was asked for and is not there
    with SliceStore(store_path) as store:
        check_units(store, request)
        check_file(targets.csv)  # before a threshold is looked for
        if dry_run:
            return _planned(store, request, targets, unknown=automatic)
        rule = None
        if automatic:
            request, rule = with_threshold(store, request, device, reporter)
        standing = standing_selection(store, request, targets.csv, targets.overwrite)
        _check_targets(store, standing, targets)
        if shard is not None and standing is None:
            return _share(store, request, targets, device, shard, reporter)
        if standing is not None:
            reporter.note(f"unchanged: {targets.csv}")
        selection = standing or write_selection(store, request, targets.csv, device, reporter, rule, cluster)
        unread = _write_kept(store, selection, targets, reporter)
    values = {"csv": str(targets.csv), "json": str(selection_paths(targets.csv)[1])} | selection.record
    return Outcome(values, _summary(selection, targets), bool(selection.record["failures"] or unread))


def _share(
    store: SliceStore, request: Request, targets: Targets, device: str, shard: Shard, reporter: Reporter
) -> Outcome:
    done = reduce_shard(store, request, targets.csv, device, shard, reporter)
    failures = [failure for one in done for failure in one.failures]
    units = counted(sum(one.result is not None or not one.failures for one in done), "unit")
    parts = parts_folder(targets.csv)
    line = f"shard {shard}: {units} -> {parts}. When all shards have ended, the same command without --shard selects"
    lines = [line, *([f"failed: {len(failures)}"] if failures else [])]
    values = {"shard": str(shard), "parts": str(parts), "units": len(done), "failures": failures}
    return Outcome(values, lines, bool(failures))


def _planned(store: SliceStore, request: Request, targets: Targets, unknown: bool) -> Outcome:
    """unknown: the threshold is not known yet."""
    standing = None if unknown else standing_selection(store, request, targets.csv, targets.overwrite)
    _check_targets(store, standing, targets)
    plan = make_plan(units_of(store.volumes, request.scope), request, parts_folder(targets.csv))
    lines = ([f"unchanged: {targets.csv}"] if standing else []) + plan.lines(request)
    lines += ["threshold: from the data, when it runs"] if unknown else []
    return Outcome(plan.values() | {"unchanged": standing is not None}, lines)


def _write_kept(store: SliceStore, selection: Selection, targets: Targets, reporter: Reporter) -> list[str]:
    """Copy and list what is kept where that is wanted; returns a line for each volume that cannot be read."""
    unread: list[str] = []
    if targets.store is not None:
        unread = write_selected(store, selection.volumes, targets.store, overwrite=targets.overwrite, reporter=reporter)
    if targets.private_list is not None:
        write_text(targets.private_list, _kept_text(store, selection), mode=0o600)
    return unread


def _check_targets(store: SliceStore, standing: Selection | None, targets: Targets) -> None:
    """Raise before anything is computed when --write or --kept-list could not be written afterwards."""
    own = {path.resolve() for path in (store.path, *selection_paths(targets.csv), parts_folder(targets.csv))}
    for path in (targets.store, targets.private_list):
        if path is not None and path.resolve() in own:
            raise UsageError(f"{path}: is another output or input of this command. Choose another name")
    if targets.store is not None:
        check_folder(targets.store)
    if targets.store is not None and (targets.store / "store.json").exists() and not (standing or targets.overwrite):
        raise UsageError(f"{targets.store}: holds a store. Give --overwrite, or another --write")
    if targets.private_list is not None:
        check_file(targets.private_list, replaced=standing is None)
        read_sources(store.path, store.volumes[0].key)  # the private folder must be there
        _check_private_list(store, standing, targets.private_list, targets.overwrite)


def _check_private_list(store: SliceStore, standing: Selection | None, path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        before = path.read_text(encoding="utf-8", errors="replace")
        if standing is None or before != _kept_text(store, standing):
            raise UsageError(f"{path}: exists. Give --overwrite, or another --kept-list")


def _kept_text(store: SliceStore, selection: Selection) -> str:
    return kept_list(source_rows(selection, store.path))


def _summary(selection: Selection, targets: Targets) -> list[str]:
    record = selection.record
    counts = record["counts"]
    seconds = record["seconds"] + (record.get("threshold_rule") or {}).get("seconds", 0)
    lines = [
        f"{record['method']}: kept {counts['kept']:,} of {counted(counts['slices'], 'slice')} "
        f"({100 * counts['kept'] / counts['slices']:.1f} %) in {counted(counts['volumes'], 'volume')}, "
        f"{seconds:.1f} s on {record['device']} -> {targets.csv}"
    ]
    lines += _decided(record)
    if counts["failed_volumes"]:
        lines.append(f"left out: {counted(counts['failed_volumes'], 'volume')} that cannot be read")
    if "hosts" in record:
        lines.append(f"hosts: {hosts_in_words(record['hosts'])}")
    if targets.store is not None:
        lines.append(f"kept slices copied to {targets.store}")
    if targets.private_list is not None:
        lines.append(f"source files of the kept slices listed in {targets.private_list} (private)")
    return lines


def _decided(record: dict[str, Any]) -> list[str]:
    """Which of a budget and a threshold stopped, where both were given; the threshold of HASH where none had to be."""
    asked = record["parameters"]
    threshold, budget = asked.get("threshold"), (asked.get("keep"), asked.get("keep_count"))
    if threshold is None:
        return []
    if budget == (None, None):
        found = record.get("threshold_rule") is not None
        default = record["method"] == "hash" and threshold == PAPER_HASH_THRESHOLD and not found
        return [f"--threshold {threshold:g} bits decided, which hash takes where nothing is said"] if default else []
    by_budget = sum(unit["kept"] <= count_to_keep(unit["slices"], *budget) for unit in record["units"])
    noun = in_words(asked["scope"])
    given = f"--keep {budget[0]:g}" if budget[0] is not None else f"--keep-count {budget[1]}"
    rest = len(record["units"]) - by_budget
    return [f"{given} decided in {counted(by_budget, noun)}, --threshold {threshold:g} in {rest:,}"]
