"""A labels table over a store: which of its slices are labelled, and how.

A row names its slice by `volume` and `slice`, or by the UID of the image it came from. Patients are a column, else the
study, else the store's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.files import read_json
from lim_gpu.labelled.listed import rows_of
from lim_gpu.labelled.parts import PARTS, columns_of, part_of, patient_column
from lim_gpu.labelled.table import ONE_CLASS, Table, assemble
from lim_gpu.labels.make import FORMAT, RECORD, TABLE
from lim_gpu.labels.origins import Origins, Place
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

UIDS = ("sop_uid", "sop_instance_uid", "SOPInstanceUID")  # columns, of which one may name the slice
STUDY = "StudyInstanceUID"
Row = dict[str, str]


@dataclass(frozen=True)
class StoreTable(Table):
    """A table whose images are slices of the store at `path`; masks lie relative to the table itself."""

    places: tuple[Place, ...] = ()
    folder: Path = Path()  # of the table
    slice_digests: tuple[str, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """What changes with any pixel of an image: the digest of its volume, and its place there."""
        return self.slice_digests

    def mask_path(self, place: int) -> Path | None:
        """As of a table."""
        name = (self.masks or ())[place]
        return self.folder / name if name else None


@dataclass
class _Found:
    """The rows that count so far, in parallel lists, and how many do not."""

    places: list[Place] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    rows: int = 0
    elsewhere: int = 0
    unlabelled: int = 0


def read_labels(
    path: Path, store_path: Path, target: str | None, reporter: Reporter, *, masks: bool = False
) -> StoreTable:
    """The labelled slices of a store by a CSV: see docs/labels.md. target: the column of the label, else `label`.

    masks: the column mask counts, not the label. Rows of images that the store has not, and rows without a label, are
    left out and said. Raises InputError for what is missing or contradictory.
    """
    with SliceStore(store_path) as store:
        _check_store(path, store)
        found = _Found()
        _read(path, store, "mask" if masks else target or "label", masks, found)
        _say(path, store_path, found, reporter)
        files = [f"{place.volume}/{place.slice}" for place in found.places]
        parts = found.parts if any(found.parts) else None
        table = assemble(path, files, found.labels, found.patients, parts, found.masks if masks else None)
        volumes = {entry.key: entry.digest for entry in store.volumes}
    digests = tuple(f"{volumes[place.volume]}/{place.slice}" for place in found.places)
    values = {one.name: getattr(table, one.name) for one in fields(Table)} | {"path": store_path}
    return StoreTable(**values, places=tuple(found.places), folder=path.parent, slice_digests=digests)


def _check_store(path: Path, store: SliceStore) -> None:
    """Raise InputError where `lim-gpu labels` made the table over another store."""
    record = read_json(path.parent / RECORD) if (path.parent / RECORD).is_file() and path.name == TABLE else {}
    if record.get("format") == FORMAT and record.get("store") != store.fingerprint:
        raise InputError(f"{path}: was made over another store than {store.path}. Run lim-gpu labels over this one")


def _read(path: Path, store: SliceStore, target: str, masks: bool, found: _Found) -> None:
    lines: dict[Place, int] = {}
    read: _Reader | None = None
    for line, row in enumerate(rows_of(path, ()), start=2):
        read = read or _Reader.of(path, list(row), store, target)
        found.rows += 1
        place = read.place(line, row)
        if place is None:
            found.elsewhere += 1
        elif not masks and not row[read.target]:
            found.unlabelled += 1
        elif lines.setdefault(place, line) != line:
            raise InputError(f"{path}: lines {lines[place]} and {line} are of one slice. Remove one")
        else:
            found.places.append(place)
            read.add(line, row, place, masks, found)


@dataclass(frozen=True)
class _Reader:
    """How the rows of a file are read: the columns that it has."""

    path: Path
    store: SliceStore
    find: Callable[[int, Row], Place | None]
    target: str
    patient: str | None
    divided: bool

    @classmethod
    def of(cls, path: Path, columns: Sequence[str], store: SliceStore, target: str) -> _Reader:
        uid = next((name for name in UIDS if name in columns), None)
        if "volume" in columns and "slice" in columns:
            find: Callable[[int, Row], Place | None] = _by_place(path, store)
        elif uid is not None:
            find = _by_uid(uid, store)
        else:
            raise InputError(f"{path}: names no slice. Add the columns volume,slice, or sop_uid")
        known = target if target in columns else columns_of([target])[0]
        if known not in columns:
            raise InputError(f"{path}: has no column {target}. Give one of {', '.join(columns)}")
        patient = patient_column(columns) or (STUDY if STUDY in columns else None)
        return cls(path, store, find, known, patient, "split" in columns)

    def place(self, line: int, row: Row) -> Place | None:
        """The slice of a row, None where the store has it not."""
        return self.find(line, row)

    def add(self, line: int, row: Row, place: Place, masks: bool, found: _Found) -> None:
        """Note what a row says."""
        found.labels.append(ONE_CLASS if masks else row[self.target])
        found.masks.append(row[self.target])
        own = self.store[place.volume].entry.patient
        found.patients.append(self._filled(line, row, self.patient) if self.patient else own)
        part = part_of(row["split"]) if self.divided else ""
        if part is None:
            raise InputError(f"{self.path}: line {line}: split {row['split']!r} is unknown. Give {', '.join(PARTS)}")
        found.parts.append(part)

    def _filled(self, line: int, row: Row, column: str) -> str:
        if not row[column]:
            raise InputError(f"{self.path}: line {line} has no {column}. Complete it")
        return row[column]


def _by_place(path: Path, store: SliceStore) -> Callable[[int, Row], Place | None]:
    sizes = {entry.key: entry.shape[0] for entry in store.volumes}

    def find(line: int, row: Row) -> Place:
        key, text = row["volume"], row["slice"]
        if key not in sizes:
            raise InputError(f"{path}: line {line}: {store.path} has no volume {key}. Give the store of this table")
        if not text.isdecimal() or int(text) >= sizes[key]:
            raise InputError(
                f"{path}: line {line}: slice {text!r} of {key}, which has 0 to {sizes[key] - 1}. Correct it"
            )
        return Place(key, int(text))

    return find


def _by_uid(column: str, store: SliceStore) -> Callable[[int, Row], Place | None]:
    origins = Origins(store)
    return lambda _line, row: origins.find(row[column])


def _say(path: Path, store: Path, found: _Found, reporter: Reporter) -> None:
    """Name what is left out. Raises InputError where that is everything."""
    if not found.places:
        raise InputError(f"{path}: labels no slice of {store} ({found.rows:,} rows). Give the table of this store")
    if found.elsewhere:
        reporter.note(f"{path}: {found.elsewhere:,} of {found.rows:,} rows are of images that are not in {store}")
    if found.unlabelled:
        reporter.note(f"{path}: {found.unlabelled:,} of {found.rows:,} rows have no label")
