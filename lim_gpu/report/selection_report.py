"""The report of selections: what was asked, what came out, and the slices themselves. Nothing is computed again.

Volumes are named by their keys, and by their names where `ingest --keep-identifiers` kept them; patients never.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.request import SCALES
from lim_gpu.report import figures
from lim_gpu.report.page import svg_text, write_page
from lim_gpu.report.selected_volume import in_a_row, in_full, to_edit
from lim_gpu.report.shown import Shown, in_a_word, read_selections
from lim_gpu.report.slider import slider
from lim_gpu.spread import spread_evenly
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import intensities_in_words

FULL = 8  # volumes shown in full
FARTHER = (
    " Greedy took each by its likeness to one that may have gone later: a kept one may be farther than the threshold."
)
FALLS = {  # what falls as fewer slices are left, by the rule
    "greedy": "how alike the pair was whose second slice went",
    "k-center": "how alike the dropped slice that is covered worst is to the kept one nearest to it",
}


def write_selection_report(
    paths: Sequence[Path],
    output: Path,
    store_path: Path | None,
    window: str | None,
    reporter: Reporter,
    made_of: str = "",
) -> None:
    """Write OUTPUT (.html) for one selection, or for several of one store beside each other.

    window: of the pictures, as `Intensity.parse` takes it; default: as the first selection saw the slices.
    Raises InputError when the store is not where the selection says and `store_path` does not tell, UsageError when
    selections are of different stores.
    """
    shown = read_selections(paths)
    first = shown[0]
    for other in shown[1:]:
        if other.selection.store_fingerprint != first.selection.store_fingerprint:
            raise UsageError(f"{other.path}: is of another store than {first.path}. Report them apart")
    intensity = first.intensity if window is None else Intensity.parse(window=window)
    with open_store(first, store_path) as store:
        keys = _common_keys(shown)
        details = _some_in_full(store, keys, shown, intensity, reporter)
        rows = _all_in_a_row(store, keys, shown, reporter)
    values = {
        "title": first.title if len(shown) == 1 else f"{len(shown)} selections of one store",
        "selections": [_summary(one) for one in shown],
        "counts": svg_text(figures.kept_counts([_kept_counts(one) for one in shown], [one.title for one in shown])),
        "overlap": _overlap(shown),
        "curves": [(one.title, FALLS[one.rule], drawn) for one in shown if (drawn := _curves(one))],
        "found": [(one.title, rule) for one in shown if (rule := _found_threshold(one))],
        "sliders": [table for one in shown if (table := slider(one))],
        "details": details,
        "rows": rows,
        "edits": _editable(shown, keys),
        "seen": intensities_in_words(store.volumes, intensity),
        "complete": len(details) == len(keys),
        "failures": [failure["cause"] for one in shown for failure in one.selection.record["failures"]],
        "unit": first.unit,
        "versions": first.selection.record["versions"],
    }
    write_page(output, "selection.html", made_of=made_of, **values)


def _common_keys(shown: Sequence[Shown]) -> list[str]:
    """The volumes that every selection speaks of: one of them may have found a damaged file."""
    others = [{volume.key for volume in one.selection.volumes} for one in shown]
    return [volume.key for volume in shown[0].selection.volumes if all(volume.key in keys for keys in others)]


def _some_in_full(
    store: SliceStore, keys: Sequence[str], shown: Sequence[Shown], intensity: Intensity, reporter: Reporter
) -> list[dict[str, Any]]:
    places = spread_evenly(len(keys), FULL)
    details = []
    with reporter.track("report", len(places), "volumes") as advance:
        for place in places:
            details.append(in_full(store, keys[place], shown, intensity))
            advance(1)
    return details


def _all_in_a_row(
    store: SliceStore, keys: Sequence[str], shown: Sequence[Shown], reporter: Reporter
) -> list[dict[str, Any]]:
    rows = []
    with reporter.track("report, a row each", len(keys), "volumes") as advance:
        for key in keys:
            rows.append(in_a_row(store[key], shown))
            advance(1)
    return rows


def _editable(shown: Sequence[Shown], keys: Sequence[str]) -> dict[str, Any]:
    """What the page needs to let slices be kept and dropped, and to write that down for `lim-gpu select --edits`."""
    selections = [{"title": one.title, "file": one.path.name, "colour": one.colour} for one in shown]
    return {"selections": selections, "volumes": {key: to_edit(key, shown) for key in keys}}


def open_store(shown: Shown, store_path: Path | None) -> SliceStore:
    """The store of a selection. Raises InputError, with the remedy, where it is not there or is another."""
    path = store_path or shown.selection.store_path
    try:
        store = SliceStore(path)
    except InputError as error:
        raise InputError(f"{shown.path}: its store is not at {path} ({error}). Give --store") from None
    shown.selection.check_store(store)
    return store


def _summary(shown: Shown) -> dict[str, Any]:
    record = shown.selection.record
    counts = record["counts"]
    parameters = [
        (name.replace("_", " "), in_a_word(value))
        for name, value in record["parameters"].items()
        if value is not None and name != "method"
    ]
    if parent := record.get("parent"):
        parameters.append(("corrected from", parent["path"]))
    return {
        "farther": FARTHER if shown.rule == "greedy" and shown.compared_by in SCALES else "",
        "title": shown.title,
        "colour": shown.colour,
        "scale": shown.scale,
        "parameters": parameters,
        "kept": counts["kept"],
        "slices": counts["slices"],
        "volumes": counts["volumes"],
        "share": 100 * counts["kept"] / counts["slices"],
        "threshold": record["resolved_threshold"],
        "borderline": record["borderline"],
        "device": record["device"],
        "seconds": record["seconds"],
    }


def _kept_counts(shown: Shown) -> NDArray[np.int64]:
    return np.array([int(volume.kept.sum()) for volume in shown.selection.volumes])


def _overlap(shown: Sequence[Shown]) -> dict[str, Any] | None:
    """How many of the kept slices of two selections are the same (the paper's table): |A and B| / |A or B|."""
    if len(shown) < 2:
        return None
    kept = [set(one.selection.kept()) for one in shown]
    rows = []
    for one, own in zip(shown, kept, strict=True):
        rows.append((one.title, [f"{100 * len(own & other) / max(1, len(own | other)):.0f} %" for other in kept]))
    return {"titles": [one.title for one in shown], "rows": rows}


def _curves(shown: Shown) -> str | None:
    ranked = [part for part in shown.curves if len(part.dropped)]
    if not ranked:
        return None
    curves = [(shown.in_own_unit(np.array(part.removal_similarity)), len(part.z)) for part in ranked]
    threshold = shown.selection.record["parameters"].get("threshold")
    return svg_text(figures.removal_curves(curves, shown.scale, threshold, shown.colour))


def _found_threshold(shown: Shown) -> dict[str, Any] | None:
    """How --threshold auto came to its number."""
    found = shown.selection.record.get("threshold_rule")
    if not isinstance(found, dict):
        return None
    scale = shown.scale
    figure = figures.views_and_neighbours(found["views"], found["neighbours"], found["threshold"], scale)
    return {"rule": found["rule"], "augmentation": found["augmentation"], "svg": svg_text(figure)}
