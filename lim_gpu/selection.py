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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import json_text, read_json, write_text

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
    """

    volumes: tuple[VolumeSelection, ...]
    record: dict[str, Any]

    def __repr__(self) -> str:
        n = sum(len(volume.kept) for volume in self.volumes)
        return f"Selection({len(self.kept())} of {n} slices in {len(self.volumes)} volumes)"

    @property
    def store_fingerprint(self) -> str:
        """SHA-256 (hex) of the store that the selection was made from."""
        return str(self.record["store"]["fingerprint"])

    def kept(self) -> list[tuple[str, int]]:
        """(volume key, slice) of every kept slice, in store order."""
        return [(volume.key, int(i)) for volume in self.volumes for i in np.flatnonzero(volume.kept)]

    def save(self, path: str | Path) -> None:
        """Write PATH (NAME.csv) and NAME.json beside it. The JSON comes first and the CSV last."""
        csv_path, json_path = selection_paths(path)
        text = self._csv()
        record = self.record | {"csv_sha256": hashlib.sha256(text.encode()).hexdigest()}
        write_text(json_path, _readable_json(record))
        write_text(csv_path, text)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read NAME.csv (or NAME.json) and its partner.

        Raises InputError for files that are missing, damaged, foreign, or do not belong together.
        """
        csv_path, json_path = selection_paths(path)
        record = read_record(json_path)
        try:
            text = csv_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{csv_path}: cannot be read ({error}). Run lim-gpu reduce again") from None
        if hashlib.sha256(text.encode()).hexdigest() != record.get("csv_sha256"):
            raise InputError(f"{csv_path}: does not belong to {json_path.name}. Run lim-gpu reduce again")
        rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(next(rows, ())) != COLUMNS:
            raise InputError(f"{csv_path}: the columns are not {','.join(COLUMNS)}")
        try:
            volumes = tuple(_parse_volume(key, list(group)) for key, group in groupby(rows, key=lambda row: row[0]))
        except (ValueError, IndexError) as error:
            raise InputError(f"{csv_path}: {error}") from None
        if len({volume.key for volume in volumes}) != len(volumes):
            raise InputError(f"{csv_path}: a volume stands twice")
        return cls(volumes, record)

    def _csv(self) -> str:
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for volume in self.volumes:
            writer.writerows(volume.rows())
        return out.getvalue()


def selection_paths(path: str | Path) -> tuple[Path, Path]:
    """NAME.csv and NAME.json of a selection named by either. Raises UsageError for another ending."""
    path = Path(path)
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path}: a selection is named NAME.csv")
    return path.with_suffix(".csv"), path.with_suffix(".json")


def read_record(json_path: Path) -> dict[str, Any]:
    """The JSON of a selection. Raises InputError when it is missing, damaged or something else."""
    record = read_json(json_path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{json_path}: not a selection of lim-gpu")
    if record.get("version") != VERSION:
        raise InputError(f"{json_path}: selection version {record.get('version')!r}, this program reads {VERSION}")
    if not isinstance(record.get("store"), dict) or not isinstance(record["store"].get("fingerprint"), str):
        raise InputError(f"{json_path}: names no store")
    return record


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


def _readable_json(record: dict[str, Any]) -> str:

    return json_text(record)


def kept_list(selection: Selection, sources: Iterable[tuple[str, list[dict[str, Any]]]]) -> str:
    """The text of kept.txt: source path, SOP instance UID and frame of every kept slice, tab-separated.

    sources: (volume key, one row a slice as `lim_gpu.store.private.read_sources` gives them). Private: it names files.
    """
    rows_of = dict(sources)
    lines = ["path\tsop_instance_uid\tframe"]
    for key, i in selection.kept():
        row = rows_of[key][i]
        lines.append(f"{row['path']}\t{row.get('sop_uid', '')}\t{row.get('frame', '')}")
    return "\n".join(lines) + "\n"
