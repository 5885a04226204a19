"""A selection: for every slice of a store whether it stays, which kept slice stands for it, and why.

Two files: NAME.csv, a row a slice, and NAME.json, how it came about. The JSON is renamed first and holds the SHA-256 of
the CSV, so that a pair that does not belong together is seen.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import LARGE_JSON, read_json, replacing, write_json
from lim_gpu.outputs import check_file, made_otherwise
from lim_gpu.selection.volume import COLUMNS
from lim_gpu.selection.volume import VolumeSelection as VolumeSelection
from lim_gpu.spread import spread_evenly
from lim_gpu.strip import SHOWN, strip

if TYPE_CHECKING:
    from lim_gpu.progress import Outcome, Reporter
    from lim_gpu.store.slices import SliceStore

FORMAT, VERSION = "lim-gpu-selection", 1
HASHED = 1 << 20  # characters of a CSV at a time


@dataclass(frozen=True, eq=False)
class Selection:
    """What `lim_gpu.reduce` returns: the volumes in store order, and the record of how they were reduced.

    record: the JSON: method, parameters, store (path, fingerprint), counts, units, failures, versions, device, seconds.
    path: NAME.csv, of a selection that stands in a file.
    """

    volumes: tuple[VolumeSelection, ...]
    record: dict[str, Any]
    path: Path | None = None

    def __repr__(self) -> str:
        n = sum(len(volume.kept) for volume in self.volumes)
        kept = sum(int(volume.kept.sum()) for volume in self.volumes)
        return f"Selection({kept} of {n} slices in {len(self.volumes)} volumes)"

    def _repr_html_(self) -> str:
        """For notebooks: some of the kept slices; where the store is not at hand, why."""
        from lim_gpu.store.slices import SliceStore

        kept = self.kept()
        chosen = [kept[place] for place in spread_evenly(len(kept), SHOWN)]
        try:
            with SliceStore(self.store_path) as store:
                slices = [(f"{key[:6]}: {i}", store[key].grey(i)) for key, i in chosen]
        except (InputError, KeyError) as error:
            return strip(f"{self!r}: no pictures, {error}", [])
        return strip(repr(self), slices)

    @property
    def store_fingerprint(self) -> str:
        """SHA-256 (hex) of the store that the selection was made from."""
        return str(self.record["store"]["fingerprint"])

    @property
    def store_path(self) -> Path:
        """Where its store lies; a file names it as seen from its own folder."""
        recorded = Path(str(self.record["store"]["path"]))
        return recorded if self.path is None else self.path.parent / recorded

    def kept(self) -> list[tuple[str, int]]:
        """(volume key, slice) of every kept slice, in store order."""
        return [(volume.key, int(i)) for volume in self.volumes for i in np.flatnonzero(volume.kept)]

    def check_store(self, store: SliceStore) -> None:
        """Raise InputError, with the remedy, unless the selection was made from this store."""
        if self.store_fingerprint == store.fingerprint:
            return
        name = self.path or "the selection"
        if {volume.key for volume in self.volumes} & {entry.key for entry in store.volumes}:
            remedy = "Run lim-gpu reduce on it, or give its own store"
            raise InputError(f"{name}: was made from another store than {store.path}. {remedy}")
        remedy = (
            f"Copy the first store's key (STORE.private/key) to {store.path}.private/key and run lim-gpu ingest again "
            "with --overwrite, or run lim-gpu reduce on this store"
        )
        raise InputError(f"{name}: none of its volumes is in {store.path}: other sources or another key. {remedy}")

    def files(self, kept: bool | None = True, *, store: str | Path | None = None) -> list[dict[str, Any]]:
        """Where the slices came from, a dictionary a slice, as MONAI's transforms take them.

        kept   True: the kept slices, False: the dropped ones, None: all
        store  where the store lies now, if it has moved

        Each holds image (path of the source file), volume, slice, z (mm), sop_uid and frame ("" and 0 where it has
        none). Of a NIfTI volume image is the whole file for every slice, and slice its place along the normal.
        Raises InputError where the store has no list of its sources (STORE.private).
        """
        from lim_gpu.selection.files import source_rows

        return source_rows(self, Path(store) if store is not None else self.store_path, kept)

    def apply(
        self,
        folder: str | Path,
        how: str = "copy",
        form: str = "source",
        *,
        store: str | Path | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
        reporter: Reporter | None = None,
    ) -> Outcome:
        """Bring the kept slices to `folder`, as their source files or written out; a file of another is never touched.

        how    "copy", "link" (symbolic links) or "list" (files.csv alone)
        form   "source": the files as they are; "dicom": the same, of DICOM alone; "nifti": KEY.nii.gz;
               "png": KEY/NNNNN.png, 8 bit, by the intensity that the selection was made with
        store  where the store lies now, if it has moved
        overwrite   put this in the place of what another call brought there, by its files.csv

        files.csv names volume, slice and z of every file. The same call again goes on where one was interrupted.
        Raises UsageError for a folder that holds something else, InputError for a store that is not the selection's.
        """
        from lim_gpu.selection.apply import apply_selection

        where = Path(store) if store is not None else self.store_path
        options: dict[str, Any] = {"overwrite": overwrite, "dry_run": dry_run, "reporter": reporter}
        return apply_selection(self, Path(folder), how, form, where, **options)

    def save(self, path: str | Path) -> None:
        """Write PATH (NAME.csv) and NAME.json beside it. The JSON comes first and the CSV last."""
        csv_path, json_path = selection_paths(path)
        digest = hashlib.sha256()
        with replacing(csv_path) as temporary:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                for line in self.lines():
                    digest.update(line.encode())
                    file.write(line)
            write_json(json_path, self.record | {"csv_sha256": digest.hexdigest()}, LARGE_JSON)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read NAME.csv (or NAME.json) and its partner.

        Raises InputError for files that are missing, damaged, foreign, or do not belong together.
        """
        csv_path, json_path = selection_paths(path)
        try:
            with open(csv_path, encoding="utf-8") as file:
                _check_columns(csv_path, file.readline(), json_path)
                record = read_record(json_path)
                file.seek(0)
                if _digest(file) != record.get("csv_sha256"):
                    raise InputError(f"{csv_path}: {_changed(csv_path)}")
                file.seek(0)
                volumes = _volumes(file)
        except FileNotFoundError:
            raise InputError(f"{csv_path}: there is no such selection. {_remedy(csv_path)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{csv_path}: cannot be read ({error}). Run lim-gpu reduce again") from None
        except InputError:
            raise
        except (ValueError, IndexError) as error:
            raise InputError(f"{csv_path}: {error}. Run reduce again") from None
        if len({volume.key for volume in volumes}) != len(volumes):
            raise InputError(f"{csv_path}: a volume stands twice. Run reduce again")
        return cls(volumes, record, csv_path)

    def lines(self) -> Iterator[str]:
        """Those of NAME.csv."""
        yield ",".join(COLUMNS) + "\n"
        for volume in self.volumes:
            yield from (",".join(row) + "\n" for row in volume.rows())


def selection_paths(path: str | Path) -> tuple[Path, Path]:
    """NAME.csv and NAME.json of a selection named by either. Raises UsageError for another ending."""
    path = Path(path)
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path}: is no name of a selection. Give NAME.csv")
    return path.with_suffix(".csv"), path.with_suffix(".json")


def read_record(json_path: Path) -> dict[str, Any]:
    """The JSON of a selection. Raises InputError when it is missing, damaged or something else."""
    record = read_json(json_path, LARGE_JSON)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{json_path}: not a selection of lim-gpu. Give one that reduce or select wrote")
    if record.get("version") != VERSION:
        found = record.get("version")
        raise InputError(f"{json_path}: selection version {found!r}, this program reads {VERSION}. Run reduce again")
    if not isinstance(record.get("store"), dict) or not isinstance(record["store"].get("fingerprint"), str):
        raise InputError(f"{json_path}: names no store. Run reduce again")
    return record


def standing(path: Path, made_of: str, overwrite: bool) -> Selection | None:
    """The selection at `path` (NAME.csv) when it is whole and its fingerprint is `made_of`; None when none is there.

    Raises UsageError when something else stands there and `overwrite` is not given.
    """
    csv_path, json_path = selection_paths(path)
    try:
        if json_path.exists() and read_record(json_path).get("fingerprint") == made_of:
            return Selection.load(csv_path)
    except InputError:
        overwrite |= not csv_path.exists()  # the JSON is renamed first: a run was interrupted between the two
    if not overwrite and (csv_path.exists() or json_path.exists()):
        raise made_otherwise(csv_path)
    check_file(csv_path, replaced=True)
    return None


def relative_path(target: Path, start: Path) -> str:
    """`target` as seen from the folder `start`, so that a folder holding both can move."""
    return os.path.relpath(target.resolve(), start.resolve())


def _digest(file: IO[str]) -> str:
    digest = hashlib.sha256()
    while text := file.read(HASHED):
        digest.update(text.encode())
    return digest.hexdigest()


def _volumes(file: IO[str]) -> tuple[VolumeSelection, ...]:
    """Row by row: texts of a million slices would take ten times the memory of their numbers."""
    rows = csv.reader(file)
    next(rows, None)  # the columns
    return tuple(VolumeSelection.parse(key, list(own)) for key, own in groupby(rows, key=lambda row: row[0]))


def _check_columns(csv_path: Path, first: str, json_path: Path) -> None:
    """Raise InputError for a CSV that is something else, or that has no JSON beside it, with the remedy."""
    if first.strip() != ",".join(COLUMNS):
        raise InputError(f"{csv_path}: is no selection of lim-gpu. Give one, whose first line is {','.join(COLUMNS)}")
    if not json_path.exists():
        remedy = f"A copy changed by hand becomes one by lim-gpu select ORIGINAL.csv --edits {csv_path} -o edited.csv"
        raise InputError(f"{csv_path}: has no {json_path.name} beside it. {remedy}")


def _remedy(csv_path: Path) -> str:
    if csv_path.with_suffix(".parts").is_dir():
        return "It was not finished: run the same lim-gpu reduce again"
    return "Give NAME.csv, as lim-gpu reduce writes it"


def _changed(csv_path: Path) -> str:
    """What to do with a CSV that is not the one of its JSON."""
    remedy = (
        "If you changed it by hand: rename it to my.csv, run lim-gpu reduce again with --overwrite, then lim-gpu "
        f"select {csv_path} --edits my.csv -o edited.csv"
    )
    return f"does not belong to {csv_path.with_suffix('.json').name}. {remedy}"
