"""A selection: for every slice of a store whether it stays, which kept slice stands for it, and why.

Two files: NAME.csv, a row a slice, and NAME.json, how it came about. The JSON is renamed first and holds the SHA-256 of
the CSV, so that a pair that does not belong together is seen.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import csv_text, json_text, made_otherwise, read_json, write_text
from lim_gpu.spread import spread_evenly
from lim_gpu.strip import SHOWN, strip

if TYPE_CHECKING:
    from lim_gpu.progress import Outcome, Reporter
    from lim_gpu.store.slices import SliceStore

FORMAT, VERSION = "lim-gpu-selection", 1
COLUMNS = ("volume", "slice", "z_mm", "kept", "rank", "covered_by", "similarity")
KEY = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True, eq=False)
class VolumeSelection:
    """The slices of one volume, in spatial order; every array has length n.

    key         the volume's key in its store
    z           float64, mm along the normal
    kept        bool
    rank        int64, place in the removal sequence, 0-based; -1 where the rule has none
    covered_by  (key of the volume, slice) of the nearest kept slice, itself if kept
    similarity  float32, to that slice, in the method's own scale; NaN for methods that compare nothing
    """

    key: str
    z: NDArray[np.float64]
    kept: NDArray[np.bool_]
    rank: NDArray[np.int64]
    covered_by: tuple[tuple[str, int], ...]
    similarity: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"VolumeSelection({self.key}: {int(self.kept.sum())} of {len(self.kept)} slices)"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The CSV rows. Another volume's slice is written KEY:SLICE. Numbers read back to the same bits."""
        for i, (volume, covering) in enumerate(self.covered_by):
            yield (
                self.key,
                str(i),
                repr(float(self.z[i])),
                "1" if self.kept[i] else "0",
                str(self.rank[i]) if self.rank[i] >= 0 else "",
                str(covering) if volume == self.key else f"{volume}:{covering}",
                str(self.similarity[i]) if np.isfinite(self.similarity[i]) else "",
            )


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
        return f"Selection({len(self.kept())} of {n} slices in {len(self.volumes)} volumes)"

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
        text = self._csv()
        record = self.record | {"csv_sha256": hashlib.sha256(text.encode()).hexdigest()}
        write_text(json_path, json_text(record))
        write_text(csv_path, text)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read NAME.csv (or NAME.json) and its partner.

        Raises InputError for files that are missing, damaged, foreign, or do not belong together.
        """
        csv_path, json_path = selection_paths(path)
        try:
            text = csv_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{csv_path}: there is no such selection. {_remedy(csv_path)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{csv_path}: cannot be read ({error}). Run lim-gpu reduce again") from None
        _check_columns(csv_path, text, json_path)
        record = read_record(json_path)
        if hashlib.sha256(text.encode()).hexdigest() != record.get("csv_sha256"):
            raise InputError(f"{csv_path}: {_changed(csv_path)}")
        rows = csv.reader(io.StringIO(text, newline=""))
        next(rows, None)  # the columns
        try:
            volumes = tuple(_parse_volume(key, list(group)) for key, group in groupby(rows, key=lambda row: row[0]))
        except (ValueError, IndexError) as error:
            raise InputError(f"{csv_path}: {error}. Run reduce again") from None
        if len({volume.key for volume in volumes}) != len(volumes):
            raise InputError(f"{csv_path}: a volume stands twice. Run reduce again")
        return cls(volumes, record, csv_path)

    def _csv(self) -> str:
        return csv_text(COLUMNS, chain.from_iterable(volume.rows() for volume in self.volumes))


def selection_paths(path: str | Path) -> tuple[Path, Path]:
    """NAME.csv and NAME.json of a selection named by either. Raises UsageError for another ending."""
    path = Path(path)
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path}: is no name of a selection. Give NAME.csv")
    return path.with_suffix(".csv"), path.with_suffix(".json")


def read_record(json_path: Path) -> dict[str, Any]:
    """The JSON of a selection. Raises InputError when it is missing, damaged or something else."""
    record = read_json(json_path)
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
    if not csv_path.exists() and not json_path.exists():
        return None
    try:
        if read_record(json_path).get("fingerprint") == made_of:
            return Selection.load(csv_path)
    except InputError:
        if not csv_path.exists():  # the JSON is renamed first: a run was interrupted between the two
            return None
    if not overwrite:
        raise made_otherwise(csv_path)
    return None


def relative_path(target: Path, start: Path) -> str:
    """`target` as seen from the folder `start`, so that a folder holding both can move."""
    return os.path.relpath(target.resolve(), start.resolve())


def _parse_volume(key: str, rows: list[list[str]]) -> VolumeSelection:
    if not KEY.match(key):
        raise ValueError(f"{key!r} is no volume key")
    if [row[1] for row in rows] != [str(i) for i in range(len(rows))]:
        raise ValueError(f"volume {key}: the slices are not 0..{len(rows) - 1} in order")
    if any(len(row) != len(COLUMNS) or row[3] not in ("0", "1") for row in rows):
        raise ValueError(f"volume {key}: a row is not {','.join(COLUMNS)} with kept 0 or 1")
    return VolumeSelection(
        key,
        np.array([float(row[2]) for row in rows]),
        np.array([row[3] == "1" for row in rows]),
        np.array([int(row[4]) if row[4] else -1 for row in rows], dtype=np.int64),
        tuple(_parse_covering(key, row[5]) for row in rows),
        np.array([float(row[6]) if row[6] else np.nan for row in rows], dtype=np.float32),
    )


def _parse_covering(own_key: str, text: str) -> tuple[str, int]:
    volume, _, covering = text.rpartition(":")
    if volume and not KEY.match(volume):
        raise ValueError(f"{volume!r} is no volume key")
    return volume or own_key, int(covering)


def _check_columns(csv_path: Path, text: str, json_path: Path) -> None:
    """Raise InputError for a CSV that is something else, or that has no JSON beside it, with the remedy."""
    if text.partition("\n")[0].strip() != ",".join(COLUMNS):
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
