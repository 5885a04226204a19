"""What the verbs `reduce` and `similarity` do with their options: plan or run, write, and say what came out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.files import write_text
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.reduction.copy import write_selected
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.plan import make_plan
from lim_gpu.reduction.request import SIMILARITIES, THRESHOLD_RANGE, Request
from lim_gpu.reduction.run import reduce, standing_selection
from lim_gpu.reduction.unit import units_of
from lim_gpu.selection import Selection, kept_list, selection_paths
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore

AUTO = "auto"  # --threshold: found from the data


def parse_keep(text: str | None) -> float | None:
    """A fraction from the command line. UsageError for a whole number: 1 could mean all slices or one."""
    if text is None:
        return None
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        other = f", or --keep-count {int(text)}" if int(text) > 0 else ""
        raise UsageError(f"--keep {text} is ambiguous. Give a fraction such as 0.1 (1.0 for all){other}")
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--keep {text!r} is not a fraction. Give 0 < F <= 1, such as 0.1") from None


def _parse_threshold(text: str | None, method: str) -> float | None:
    """A threshold from the command line; for "auto", which needs the data, the lowest that the method takes."""
    if text is None:
        return None
    if text == AUTO:
        if method not in SIMILARITIES:
            raise UsageError(f"method {method} compares nothing and takes no threshold")
        return THRESHOLD_RANGE[method][0]
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold {text!r} is no number. Give one in the method's own unit, or auto") from None


def store_or_selections(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Selections among the arguments, and the store when the one argument is a folder."""
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError(f"{folders[0]}: give one store, or selections alone")
    return ([], folders[0]) if folders else (list(paths), None)


def reduce_from_options(
    store_path: Path,
    options: dict[str, Any],
    output: Path,
    write_to: Path | None,
    private_list: Path | None,
    dry_run: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Outcome:
    """Run or plan `lim_gpu.reduce` with the options of the command line."""
    device = options.pop("device")
    automatic = options["threshold"] == AUTO
    options["threshold"] = _parse_threshold(options["threshold"], options["method"])
    request = _request(options)
    csv_path, json_path = selection_paths(output)
    with SliceStore(store_path) as store:
        if automatic and not dry_run:
            from lim_gpu.reduction.auto_threshold import auto_threshold

            found = auto_threshold(store, request.criterion, options["seed"], device, reporter)
            reporter.note(found.line(options["method"]))
            options |= {"threshold": found.threshold, "threshold_rule": found.record()}
            request = replace(request, threshold=found.threshold)
        unknown = automatic and dry_run  # the threshold is not known yet
        standing = None if unknown else standing_selection(store, request, csv_path, overwrite)
        _check_targets(store, standing, csv_path, write_to, private_list, overwrite)
        if dry_run:
            plan = make_plan(units_of(store.volumes, request.scope), request, csv_path.with_suffix(".parts"))
            lines = plan.lines(request) + ([f"unchanged: {csv_path}"] if standing else [])
            lines += ["threshold: from the data, when it runs"] if unknown else []
            return Outcome(plan.values() | {"unchanged": standing is not None}, lines)
        selection = reduce(store, **options, device=device, output=csv_path, overwrite=overwrite, reporter=reporter)
        unread: list[str] = []
        if write_to is not None:
            unread = write_selected(store, selection.volumes, write_to, overwrite=overwrite, reporter=reporter)
        if private_list is not None:
            write_text(private_list, _kept_text(store, selection), mode=0o600)
    values = {"csv": str(csv_path), "json": str(json_path)} | selection.record
    return Outcome(values, _summary(selection, csv_path, write_to), bool(selection.record["failures"] or unread))


def _check_targets(
    store: SliceStore,
    standing: Selection | None,
    csv_path: Path,
    write_to: Path | None,
    private_list: Path | None,
    overwrite: bool,
) -> None:
    """Raise before anything is computed when --write or --kept-list could not be written afterwards."""
    own = {path.resolve() for path in (store.path, *selection_paths(csv_path), csv_path.with_suffix(".parts"))}
    for path in (write_to, private_list):
        if path is not None and path.resolve() in own:
            raise UsageError(f"{path}: is another output or input of this command. Choose another name")
    if write_to is not None and (write_to / "store.json").exists() and standing is None and not overwrite:
        raise UsageError(f"{write_to}: holds a store. Give --overwrite, or another --write")
    if private_list is not None:
        read_sources(store.path, store.volumes[0].key)  # the private folder must be there
        if private_list.exists() and not overwrite:
            before = private_list.read_text(encoding="utf-8", errors="replace")
            if standing is None or before != _kept_text(store, standing):
                raise UsageError(f"{private_list}: exists. Give --overwrite, or another --kept-list")


def _kept_text(store: SliceStore, selection: Selection) -> str:
    return kept_list(selection, ((volume.key, read_sources(store.path, volume.key)) for volume in selection.volumes))


def _request(options: dict[str, Any]) -> Request:
    """Turn the command line's texts in `options` into values, and check them before anything is opened."""
    options["keep"] = parse_keep(options["keep"])
    intensity = Intensity.parse(
        intensity=options["intensity"], window=options.pop("window"), hu_range=options.pop("hu_range")
    )
    options["intensity"] = intensity
    criterion = _criterion(options, intensity)
    names = ("keep", "keep_count", "threshold", "scope", "rule", "order", "seed")
    return Request(criterion, **{name: options[name] for name in names})


def _criterion(options: dict[str, Any], intensity: Intensity) -> Criterion:
    names = ("bins", "features", "weights", "precision")
    return Criterion(options["method"], intensity, **{name: options[name] for name in names})


def _summary(selection: Selection, csv_path: Path, write_to: Path | None) -> list[str]:
    record = selection.record
    counts = record["counts"]
    lines = [
        f"{record['method']}: kept {counts['kept']:,} of {counts['slices']:,} slices "
        f"({100 * counts['kept'] / counts['slices']:.1f} %) in {counts['volumes']} volumes, "
        f"{record['seconds']:.1f} s on {record['device']} -> {csv_path}"
    ]
    if counts["failed_volumes"]:
        lines.append(f"left out: {counts['failed_volumes']} volumes that cannot be read")
    if write_to is not None:
        lines.append(f"kept slices copied to {write_to}")
    return lines
