"""The verb `labels`: a table over a store, made of what others annotated.

DIR/labels.csv    volume, slice, label (1 where something is marked, else 0) and mask; or the attributes of patients
DIR/masks/        a PNG a slice that has a mask: 0 where nothing is, else the number of what is there
DIR/labels.json   of which store and sources; written before the table, which is the last
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, LimGpuError, UsageError, unknown
from lim_gpu.files import csv_text, file_sha256, fingerprint, locked, remove_stale, write_json, write_text
from lim_gpu.ingest.records import Found
from lim_gpu.ingest.scan import MEMORY, walk
from lim_gpu.ingest.settings import default_workers
from lim_gpu.labels import attributes, dicom_seg, label_maps, lidc
from lim_gpu.labels.masks import Marked, MaskFolder, mask_name
from lim_gpu.labels.origins import Origins, Place
from lim_gpu.outputs import check_folder, standing_record
from lim_gpu.progress import Advance, Outcome, Reporter, counted
from lim_gpu.store.slices import SliceStore
from lim_gpu.workers import run_in_children

KINDS = ("lidc", "dicom-seg", "nifti", "attributes")
FORMAT, VERSION = "lim-gpu-labels", 1
ALGORITHM = 1  # raised when a change of this program changes a table
TABLE, RECORD = "labels.csv", "labels.json"
MASK_COLUMNS = ("volume", "slice", "label", "mask")
PRIVATE = 0o600
SECONDS = 600  # for a file


@dataclass
class Gathered:
    """The table, what was left out for a reason, and what failed."""

    columns: Sequence[str]
    rows: list[tuple[object, ...]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def make_labels(
    kind: str,
    source: Path,
    store_path: Path,
    output: Path,
    *,
    patients: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Make a labels table over the store at `store_path` of the annotations below `source`, in the folder `output`.

    kind      "lidc" (its XML files), "dicom-seg", "nifti" (label maps named as their volumes) or "attributes" (source:
              the DICOM folder that was ingested, whose tags are read again)
    patients  attributes: a CSV of patient and race

    Raises UsageError for a contradiction or another output, InputError when nothing belongs to the store.
    """
    reporter = reporter or Reporter(quiet=True)
    _check(kind, store_path, output, patients)
    with SliceStore(store_path) as store:
        files = [] if kind == "attributes" else _files(kind, source, store_path, output)
        asked = _fingerprint(kind, store, files, patients)
        if record := standing_record(output / RECORD, asked, [output / TABLE, output / RECORD], overwrite):
            return _outcome(record, output, unchanged=True)
        _check_free(output)
        with nullcontext() if dry_run else locked(output):
            gathered = _gather(kind, source, store, files, None if dry_run else output, patients, reporter)
            if not gathered.rows:
                raise InputError(f"{source}: nothing in it belongs to {store_path}{_why(gathered)}")
            record = _record(kind, store, asked, gathered)
            if not dry_run:
                _write(output, record, gathered)
            reporter.errors(record["failures"], "files failed")
    return _outcome(record, output, dry_run=dry_run)


def _check(kind: str, store: Path, output: Path, patients: Path | None) -> None:
    if kind not in KINDS:
        raise unknown("the kind of labels", kind, KINDS)
    if patients is not None and kind != "attributes":
        raise UsageError(f"`patients` belongs to attributes, not to {kind}. Leave it out")
    check_folder(output)
    if output.resolve().is_relative_to(store.resolve()):
        raise UsageError(f"{output}: is inside the store, which holds no labels. Give another -o")


def _check_free(output: Path) -> None:
    """Raise UsageError where a table would be written among other files."""
    inside = {path.name for path in output.iterdir()} if output.exists() else set()
    if others := sorted(name for name in inside - {TABLE, RECORD, "masks"} if not name.startswith(".")):
        raise UsageError(f"{output}: holds other files ({others[0]}). Give another -o")


def _files(kind: str, source: Path, store: Path, output: Path) -> list[Found]:
    private = store.resolve().with_name(store.resolve().name + ".private")
    endings = {"lidc": lidc.ENDINGS, "nifti": label_maps.ENDINGS}.get(kind, ("",))
    walked = walk([source], leave_out=[store, private, output])
    return [found for found in walked.files if found.path.lower().endswith(endings)]


def _fingerprint(kind: str, store: SliceStore, files: Sequence[Found], patients: Path | None) -> str:
    sources = [[found.name, found.size, found.mtime_ns] for found in files]
    return fingerprint([ALGORITHM, kind, store.fingerprint, sources, patients and file_sha256(patients)])


def _gather(
    kind: str,
    source: Path,
    store: SliceStore,
    files: Sequence[Found],
    output: Path | None,
    patients: Path | None,
    reporter: Reporter,
) -> Gathered:
    """All rows; masks go to `output` at once, where there is one."""
    total, unit = (len(store), "volumes") if kind == "attributes" else (len(files), "files")
    with reporter.track(f"read {kind}", total, unit) as advance:
        if kind == "attributes":
            return _attributes(source, store, patients, advance)
        return _masks(kind, store, files, output, advance)


def _attributes(source: Path, store: SliceStore, patients: Path | None, advance: Advance) -> Gathered:
    gathered = Gathered(attributes.COLUMNS)
    for row in attributes.attribute_rows(source, store, patients, gathered.counted, advance):
        gathered.failures.append(row) if isinstance(row, str) else gathered.rows.append(row)
    return gathered


def _masks(kind: str, store: SliceStore, files: Sequence[Found], output: Path | None, advance: Advance) -> Gathered:
    if output is not None:
        shutil.rmtree(output / "masks", ignore_errors=True)
        remove_stale(output)
    gathered, folder = Gathered(MASK_COLUMNS), MaskFolder(output)
    readers = {"lidc": _lidc, "dicom-seg": _dicom_seg, "nifti": _label_maps}
    for one in readers[kind](store, files, gathered, advance):
        folder.add(one)
    for entry in store.volumes:
        places = [Place(entry.key, i) for i in range(entry.shape[0]) if entry.key in folder.volumes]
        marked = [place in folder.slices for place in places]
        gathered.rows += [(*p, int(own), mask_name(p) if own else "") for p, own in zip(places, marked, strict=True)]
    return gathered


def _lidc(store: SliceStore, files: Sequence[Found], gathered: Gathered, advance: Advance) -> Iterator[Marked]:
    origins = Origins(store)
    for found in files:
        read = partial(lidc.marked_volumes, found.path, store, origins, gathered.counted)
        yield from _trying(found, read, gathered)
        advance(1)


def _dicom_seg(store: SliceStore, files: Sequence[Found], gathered: Gathered, advance: Advance) -> Iterator[Marked]:
    origins = Origins(store)
    for found, masks in _in_children(dicom_seg.read_segments, {found: (found.path,) for found in files}, gathered):
        advance(1)
        if masks is None:
            gathered.counted["files that are no segmentation"] += 1
        else:
            read = partial(dicom_seg.marked_volumes, masks, store, origins, gathered.counted)
            yield from _trying(found, read, gathered)


def _label_maps(store: SliceStore, files: Sequence[Found], gathered: Gathered, advance: Advance) -> Iterator[Marked]:
    volumes = label_maps.volumes_by_map(files, store, gathered.counted)
    named = {found: (found.path, store.path.resolve(), volumes[found.path]) for found in files if found.path in volumes}
    advance(len(files) - len(named))
    for _found, marked in _in_children(label_maps.read_map, named, gathered):
        advance(1)
        yield marked


def _in_children(
    read: Callable[..., Any], tasks: dict[Found, tuple[Any, ...]], gathered: Gathered
) -> Iterator[tuple[Found, Any]]:
    """What `read` finds in each file, in any order; what fails is noted."""
    limits: dict[str, Any] = {"workers": default_workers(), "timeout": SECONDS, "memory_limit": MEMORY}
    files = list(tasks)
    for outcome in run_in_children(read, list(tasks.values()), **limits):
        if outcome.error is None:
            yield files[outcome.task], outcome.value
        else:
            gathered.failures.append(f"{files[outcome.task].path}: {outcome.error}")


def _trying(found: Found, read: Callable[[], Iterator[Marked]], gathered: Gathered) -> Iterator[Marked]:
    """What `read` yields; what it raises is noted of the file."""
    try:
        yield from read()
    except LimGpuError as error:
        gathered.failures.append(f"{found.path}: {error}")


def _why(gathered: Gathered) -> str:
    """Why nothing was found, for the end of an error."""
    causes = [f"{number} {what}" for what, number in gathered.counted.items()] + sorted(gathered.failures)[:1]
    return (f" ({'; '.join(causes)})" if causes else "") + ". Give its annotations"


def _record(kind: str, store: SliceStore, asked: str, gathered: Gathered) -> dict[str, Any]:
    record = {"format": FORMAT, "version": VERSION, "fingerprint": asked, "kind": kind, "store": store.fingerprint}
    record |= {"rows": len(gathered.rows), "volumes": len({row[0] for row in gathered.rows})}
    if kind != "attributes":
        record["marked"] = sum(row[2] == 1 for row in gathered.rows)
    return record | {"counted": dict(gathered.counted), "failures": sorted(gathered.failures)}


def _write(output: Path, record: dict[str, Any], gathered: Gathered) -> None:
    """A table of attributes, and the reasons of failures, name patients: both are for their owner alone."""
    mode = PRIVATE if record["kind"] == "attributes" else 0o644
    write_json(output / RECORD, record | {"failures": len(record["failures"])})
    write_text(output / TABLE, csv_text(gathered.columns, gathered.rows), mode)


def _outcome(record: dict[str, Any], output: Path, *, unchanged: bool = False, dry_run: bool = False) -> Outcome:
    values = {"output": str(output), "unchanged": unchanged, "dry_run": dry_run}
    values |= {name: value for name, value in record.items() if name not in ("format", "version")}
    if unchanged:
        return Outcome(values, [f"unchanged: {output}"], bool(record["failures"]))
    of_volumes = f"{counted(record['rows'], 'row')} of {counted(record['volumes'], 'volume')}"
    marked = f", {record['marked']:,} marked" if "marked" in record else ""
    lines = [f"{'plan: ' if dry_run else ''}{of_volumes}{marked} -> {output / TABLE}"]
    lines += [f"{number:,} {what}" for what, number in record["counted"].items()]
    return Outcome(values, lines, bool(record["failures"]))
