"""A selection corrected by hand: which slices stay is said, which kept slice stands for each is found anew.

Similarities are those that the parent measured (NAME.parts); where they are not there, or nothing was compared, the
nearest kept slice by position stands for a dropped one, and no similarity is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError
from lim_gpu.files import fingerprint
from lim_gpu.outputs import check_file
from lim_gpu.progress import Outcome, counted
from lim_gpu.reduction.choice import nearest_by_position, nearest_by_similarity
from lim_gpu.reduction.measure import find_measure
from lim_gpu.reduction.request import SIMILARITIES
from lim_gpu.reduction.run import parts_folder
from lim_gpu.selection import Selection, VolumeSelection, relative_path, selection_paths, standing
from lim_gpu.selection.edits import Edits, read_edits
from lim_gpu.selection.volume import Covering
from lim_gpu.store.slices import SliceStore

METHOD = "edited"
CRITERION = ("intensity", "bins", "features", "weights", "precision")  # of the parameters, what similarities depend on


@dataclass(frozen=True)
class _Origin:
    """What made the first selection of a line of corrections, and where it left what it measured."""

    method: str
    parameters: dict[str, Any]
    parts: Path

    @classmethod
    def of(cls, selection: Selection) -> _Origin:
        assert selection.path is not None
        record = selection.record
        if "made_by" not in record:
            return cls(record["method"], record["parameters"], parts_folder(selection.path))
        made = record["made_by"]
        return cls(made["method"], made["parameters"], selection.path.parent / made["parts"])

    def record(self, home: Path) -> dict[str, Any]:
        parts = relative_path(self.parts, home)
        return {"method": self.method, "parameters": self.parameters, "parts": parts}


def select_verb(
    path: Path,
    add: Sequence[str],
    drop: Sequence[str],
    edits: Path | None,
    output: Path,
    *,
    store: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Write the selection at `path` with slices added and dropped as a selection of its own.

    add, drop: texts VOLUME:SLICES; edits: a file of them (see `lim_gpu.selection.edits`). Raises UsageError for edits
    that contradict themselves or the selection, and for an output that holds something else.
    """
    csv_path, _ = selection_paths(output)
    parent = Selection.load(path)
    if csv_path.resolve() == selection_paths(path)[0].resolve():
        raise UsageError(f"{csv_path}: is the selection that is corrected. Give another -o")
    check_file(csv_path)
    wanted = read_edits(parent, add, drop, edits)
    with SliceStore(store or parent.store_path) as opened:
        parent.check_store(opened)
        selection = edited(parent, wanted, opened, csv_path.parent)
    unchanged = standing(csv_path, selection.record["fingerprint"], overwrite) is not None
    if not (dry_run or unchanged):
        selection.save(csv_path)
    values = {"csv": str(csv_path), "dry_run": dry_run, "unchanged": unchanged} | selection.record
    return Outcome(values, _lines(values, selection.record))


def edited(parent: Selection, edits: Edits, store: SliceStore, home: Path) -> Selection:
    """`parent`, which stands in a file, with `edits`. home: the folder from which the record names the store."""
    before, origin = set(parent.kept()), _Origin.of(parent)
    changes = Edits(edits.add - before, edits.drop & before)
    if not changes.add and not changes.drop:
        raise UsageError(f"{parent.path}: has these slices so already. Give other changes")
    kept = (before | changes.add) - changes.drop
    volumes: dict[str, VolumeSelection] = {}
    units = []
    for unit in parent.record["units"]:
        own = [volume for volume in parent.volumes if volume.key in unit["volumes"]]
        measured = _measured(own, origin, str(unit["unit"]), store)
        corrected = _covered(own, kept, measured, origin.method)
        volumes |= {volume.key: volume for volume in corrected}
        count = sum(int(volume.kept.sum()) for volume in corrected)
        units.append(unit | {"kept": count, "resolved_threshold": None, "borderline": 0, "seconds": 0.0})
    record = _record(parent, origin, changes, units, home)
    return Selection(tuple(volumes[volume.key] for volume in parent.volumes), record)


def _covered(
    volumes: Sequence[VolumeSelection], kept: set[tuple[str, int]], measured: NDArray[Any] | None, method: str
) -> list[VolumeSelection]:
    """The volumes of one unit with `kept` kept, each slice with the kept one that stands for it."""
    places = [(volume.key, i) for volume in volumes for i in range(len(volume.kept))]
    stays = np.array([place in kept for place in places])
    if not stays.any():
        raise UsageError(f"volume {volumes[0].key}: no slice would be left to stand for the others. Leave one")
    indices = np.flatnonzero(stays)
    covered_by, similarity = (
        nearest_by_position(indices, len(places))
        if measured is None
        else nearest_by_similarity(measured, indices, method)
    )
    covering = Covering.numbered([(volume.key, len(volume.kept)) for volume in volumes], covered_by)
    result, start = [], 0
    for volume in volumes:
        own = slice(start, start + len(volume.kept))
        result.append(replace(volume, kept=stays[own], covered_by=covering[own], similarity=similarity[own]))
        start = own.stop
    return result


def _measured(volumes: Sequence[VolumeSelection], origin: _Origin, unit: str, store: SliceStore) -> NDArray[Any] | None:
    """Hashes (n,) or similarities (n, n) of a unit, as the reduction left them in NAME.parts."""
    if origin.method not in SIMILARITIES:
        return None
    criterion = {name: origin.parameters[name] for name in CRITERION if name in origin.parameters}
    digests = [(volume.key, store[volume.key].entry.digest) for volume in volumes]
    return find_measure(origin.parts, unit, origin.method, criterion, digests)


def _record(
    parent: Selection, origin: _Origin, edits: Edits, units: list[dict[str, Any]], home: Path
) -> dict[str, Any]:
    """The JSON of the corrected selection: the parent's, what was changed, and what made the first of its line."""
    before, changes = parent.record, edits.lines()
    assert parent.path is not None
    parameters = {name: before["parameters"][name] for name in ("scope", "intensity") if name in before["parameters"]}
    return before | {
        "method": METHOD,
        "parameters": {"method": METHOD} | parameters,
        "fingerprint": fingerprint([METHOD, before["fingerprint"], changes]),
        "store": before["store"] | {"path": relative_path(parent.store_path, home)},
        "counts": before["counts"] | {"kept": sum(unit["kept"] for unit in units)},
        "borderline": 0,
        "resolved_threshold": None,
        "threshold_rule": None,
        "units": units,
        "seconds": 0.0,
        "edits": changes,
        "parent": {
            "path": relative_path(parent.path, home),
            "fingerprint": before["fingerprint"],
            "csv_sha256": before["csv_sha256"],
            "method": before["method"],
        },
        "made_by": origin.record(home),
    }


def _lines(values: dict[str, Any], record: dict[str, Any]) -> list[str]:
    state = "plan: " if values["dry_run"] else "unchanged: " if values["unchanged"] else ""
    counts = record["counts"]
    what = f"kept {counts['kept']:,} of {counted(counts['slices'], 'slice')}"
    return [f"{state}{METHOD}: {what} in {counted(counts['volumes'], 'volume')} -> {values['csv']}", *record["edits"]]
