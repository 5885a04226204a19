"""The report of selections: what was asked, what came out, and the slices themselves. Nothing is computed again.

Volumes are named by their keys alone: a readable name may be a patient's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest.defects import sentences
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.pruning.rules import every_n
from lim_gpu.reduction.parts import UnitResult, load_part
from lim_gpu.reduction.request import HASH_BITS, THRESHOLD_RANGE
from lim_gpu.report import figures
from lim_gpu.report.page import image_uri, svg_text, write_page
from lim_gpu.selection import Selection, VolumeSelection, selection_paths
from lim_gpu.spread import spread_evenly
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume

FULL = 8  # volumes shown in full
STRIP = 14  # slices of a strip
COVERED = 6  # dropped slices shown beside those that cover them
SIDE = 160  # pixels of a picture
STEPS = 200  # of the threshold slider


@dataclass(frozen=True)
class Shown:
    """A selection with the results of its units; `parts` is empty where NAME.parts is gone."""

    path: Path
    selection: Selection
    parts: dict[str, UnitResult]  # by unit

    @property
    def title(self) -> str:
        """How it was asked for, in a few words."""
        parameters = self.selection.record["parameters"]
        asked = [
            f"{name.replace('_', ' ')} {parameters[name]:g}" for name in ("keep", "keep_count") if parameters.get(name)
        ]
        if parameters.get("threshold") is not None:
            asked.append(f"threshold {parameters['threshold']:g}")
        return " ".join([self.selection.record["method"], *asked])

    @property
    def unit(self) -> str:
        """What was reduced together: a volume, a patient, or the data set."""
        scope = str(self.selection.record["parameters"]["scope"])
        return {"dataset": "data set"}.get(scope, scope)

    def curve(self, key: str) -> UnitResult | None:
        """The result of the unit that is this volume alone."""
        return next((part for part in self.parts.values() if [name for name, _ in part.volumes] == [key]), None)


def read_selection(path: Path) -> Shown:
    """A selection and its parts. Raises InputError for what is none."""
    csv_path, _ = selection_paths(path)
    selection = Selection.load(csv_path)
    folder = csv_path.with_suffix(".parts")
    parts = {}
    for unit in selection.record["units"]:
        result = load_part(folder, str(unit["unit"]))
        if result is not None and len(result.kept) == unit["kept"]:
            parts[result.unit] = result
    return Shown(csv_path, selection, parts)


def write_selection_report(
    paths: Sequence[Path], output: Path, store_path: Path | None, reporter: Reporter, made_of: str = ""
) -> None:
    """Write OUTPUT (.html) for one selection, or for several of one store beside each other.

    Raises InputError when the store is not where the selection says and `store_path` does not tell, UsageError when
    selections are of different stores.
    """
    shown = [read_selection(path) for path in paths]
    first = shown[0]
    for other in shown[1:]:
        if other.selection.store_fingerprint != first.selection.store_fingerprint:
            raise UsageError(f"{other.path}: is of another store than {first.path}. Report them apart")
    with open_store(first, store_path) as store:
        keys = [volume.key for volume in first.selection.volumes]
        places = spread_evenly(len(keys), FULL)
        details = []
        with reporter.track("report", len(places), "volumes") as advance:
            for place in places:
                details.append(_volume(store, keys[place], shown))
                advance(1)
        rows = [_row(store[key], first) for key in keys]
    values = {
        "title": first.title if len(shown) == 1 else f"{len(shown)} selections of one store",
        "selections": [_summary(one) for one in shown],
        "counts": svg_text(figures.kept_counts([_kept_counts(one) for one in shown], [one.title for one in shown])),
        "overlap": _overlap(shown),
        "curves": [(one.title, drawn) for one in shown if (drawn := _curves(one))],
        "found": [(one.title, rule) for one in shown if (rule := _found_threshold(one))],
        "sliders": [table for one in shown if (table := _slider(one))],
        "details": details,
        "rows": rows,
        "complete": len(details) == len(keys),
        "failures": [failure["cause"] for one in shown for failure in one.selection.record["failures"]],
        "unit": first.unit,
        "versions": first.selection.record["versions"],
    }
    write_page(output, "selection.html", made_of=made_of, **values)


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
        (name.replace("_", " "), " ".join(map(str, value.values())) if isinstance(value, dict) else value)
        for name, value in record["parameters"].items()
        if value is not None and name != "method"
    ]
    return {
        "title": shown.title,
        "method": record["method"],
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
    curves = [part.removal_similarity for part in shown.parts.values() if part.ranked and part.removal_similarity]
    if not curves:
        return None
    record = shown.selection.record
    hashes = record["method"] == "hash"
    own = [[HASH_BITS * (1 - value) for value in curve] if hashes else curve for curve in curves]
    return svg_text(figures.removal_curves(own, _scale(record["method"]), record["parameters"].get("threshold")))


def _found_threshold(shown: Shown) -> dict[str, Any] | None:
    """How --threshold auto came to its number."""
    found = shown.selection.record.get("threshold_rule")
    if not isinstance(found, dict):
        return None
    scale = _scale(shown.selection.record["method"])
    figure = figures.views_and_neighbours(found["views"], found["neighbours"], found["threshold"], scale)
    return {"rule": found["rule"], "augmentation": found["augmentation"], "svg": svg_text(figure)}


def _scale(method: str) -> str:
    return {"ssim": "SSIM", "mi": "NMI", "deepnet": "cosine", "hash": "bits apart"}.get(method, method)


def _slider(shown: Shown) -> dict[str, Any] | None:
    """Kept slices of all units for thresholds in the method's own unit, so that one can be chosen by eye."""
    ranked = [part for part in shown.parts.values() if part.ranked]
    method = shown.selection.record["method"]
    if not ranked or method not in THRESHOLD_RANGE:
        return None
    removals = [np.sort(np.array(part.removal_similarity)) for part in ranked]
    sizes = np.array([len(part.z) for part in ranked])
    if method == "hash":
        thresholds = np.arange(0, HASH_BITS // 2 + 1, dtype=float)
        limits = 1 - thresholds / HASH_BITS
    else:
        values = np.concatenate(removals)
        thresholds = np.linspace(values.min(), values.max(), STEPS) if len(values) else np.zeros(1)
        limits = thresholds
    kept = np.array([sizes - [len(r) - np.searchsorted(r, limit) for r in removals] for limit in limits])
    own = sum(len(part.kept) for part in ranked)
    return {
        "title": shown.title,
        "start": int(np.argmin(np.abs(kept.sum(axis=1) - own))),  # where it keeps as many as were asked for
        "scale": _scale(method),
        "unit": shown.unit if len(ranked) > 1 else None,
        "thresholds": [round(float(value), 5) for value in thresholds],
        "kept": kept.sum(axis=1).tolist(),
        "least": kept.min(axis=1).tolist(),
        "most": kept.max(axis=1).tolist(),
        "slices": int(sizes.sum()),
        "decimals": 0 if method == "hash" else 4,
    }


def _row(volume: Volume, shown: Shown) -> dict[str, Any]:
    key = volume.key
    selected = next(one for one in shown.selection.volumes if one.key == key)
    dropped = ~selected.kept & np.isfinite(selected.similarity)
    with volume:
        defects = list(sentences(volume.header.defects, volume.header.clamped).values())
    return {
        "key": key,
        "slices": len(selected.kept),
        "kept": int(selected.kept.sum()),
        "worst": float(selected.similarity[dropped].min()) if dropped.any() else None,
        "defects": defects,
        "modality": volume.entry.modality or "image",
        "size": f"{volume.entry.shape[1]} x {volume.entry.shape[2]}",
    }


def _volume(store: SliceStore, key: str, shown: Sequence[Shown]) -> dict[str, Any]:
    chosen = [next(one for one in other.selection.volumes if one.key == key) for other in shown]
    first = chosen[0]
    pictures = _Pictures(store, key)
    strips = [
        (other.title, [pictures.slice(i) for i in _some(np.flatnonzero(one.kept), STRIP)], int(one.kept.sum()))
        for other, one in zip(shown, chosen, strict=True)
    ]
    count = int(first.kept.sum())
    if all(other.selection.record["method"] != "every-n" for other in shown):
        evenly = every_n(len(first.kept), keep_count=count) if count else np.zeros(0, np.int64)
        strips.append((f"every-n, {count} slices", [pictures.slice(i) for i in _some(evenly, STRIP)], count))
    cards = [pictures.pair(i, first) for i in _to_look_at(first)]
    with store[key] as volume:
        defects = list(sentences(volume.header.defects, volume.header.clamped).values())
    return {
        "key": key,
        "slices": len(first.kept),
        "kept": count,
        "drawn": [_drawn(other, one) for other, one in zip(shown, chosen, strict=True)],
        "strips": strips,
        "cards": cards,
        "cards_of": shown[0].title,
        "defects": defects,
        "z": (float(first.z[0]), float(first.z[-1])),
    }


def _drawn(shown: Shown, selected: VolumeSelection) -> dict[str, Any]:
    """Matrix and removal curve of a volume that was reduced alone."""
    part = shown.curve(selected.key)
    ranked = part is not None and part.ranked and part.removal_similarity
    return {
        "title": shown.title,
        "matrix": svg_text(figures.matrix(part.matrix, selected.kept)) if part and part.matrix else None,
        "curve": _own_curve(shown, part) if part and ranked else None,
    }


def _own_curve(shown: Shown, part: UnitResult) -> str:
    method = shown.selection.record["method"]
    values = np.array(part.removal_similarity)
    own = HASH_BITS * (1 - values) if method == "hash" else values
    return svg_text(figures.removal_curve(own, len(part.z), len(part.kept), _scale(method)))


def _some(indices: NDArray[np.int64], most: int) -> list[int]:
    return [int(i) for i in indices[spread_evenly(len(indices), most)]]


def _to_look_at(selected: VolumeSelection) -> list[int]:
    """Dropped slices to show: half of them those that are covered worst, the others spread over the rest."""
    dropped = np.flatnonzero(~selected.kept)
    if not len(dropped) or not np.isfinite(selected.similarity[dropped]).any():
        return []
    by_similarity = dropped[np.argsort(selected.similarity[dropped], kind="stable")]
    worst, rest = by_similarity[: COVERED // 2], by_similarity[COVERED // 2 :]
    return [*map(int, worst), *(_some(rest, COVERED - len(worst)) if len(rest) else [])]


class _Pictures:
    """Small pictures of slices of one volume, as the methods see them by default, and of those that stand for them."""

    def __init__(self, store: SliceStore, key: str) -> None:
        self.store = store
        self.key = key
        self.intensity = Intensity.parse()

    def uri(self, i: int, key: str | None = None) -> str:
        with self.store[key or self.key] as volume:
            return image_uri(self.intensity.to_uint8(volume.read(i, i + 1))[0], SIDE)

    def slice(self, i: int) -> dict[str, Any]:
        return {"slice": i, "image": self.uri(i)}

    def pair(self, i: int, selected: VolumeSelection) -> dict[str, Any]:
        key, covering = selected.covered_by[i]
        return {
            "slice": i,
            "image": self.uri(i),
            "covering": covering,
            "elsewhere": None if key == selected.key else key,
            "covering_image": self.uri(covering, key),
            "similarity": float(selected.similarity[i]),
        }
