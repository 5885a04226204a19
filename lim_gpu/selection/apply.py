"""The kept slices of a selection as files of their own: the source files, or NIfTI and PNG written from the store.

FOLDER/applied.json   what was asked: with it a folder may be gone on with, and no other folder is ever touched
FOLDER/files.csv      volume, slice and z of every file; written last
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lim_gpu.errors import UsageError, unknown
from lim_gpu.files import csv_text, fingerprint, locked, read_json, remove_stale, replacing, write_json, write_text
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_folder
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.selection.files import source_rows
from lim_gpu.selection.written import write_nifti, write_png
from lim_gpu.store.slices import SliceStore

if TYPE_CHECKING:
    from lim_gpu.selection import Selection

FORMAT, VERSION = "lim-gpu-applied", 1
WAYS = ("copy", "link", "list")
FORMS = ("source", "dicom", "nifti", "png")
COLUMNS = ("volume", "slice", "z_mm", "file", "frame", "sop_uid")
UNEVEN = 0.01  # mm


@dataclass(frozen=True)
class Piece:
    """A file to make.

    name     below the folder; of a list, the source itself
    rows     of files.csv: the kept slices in it
    make     makes it at a path that is given
    source   the file it is made of, where it may be missing
    dropped  slices in it that are not kept
    """

    name: str
    rows: list[dict[str, Any]]
    make: Callable[[Path], Any]
    source: str | None = None
    dropped: int = 0

    @property
    def missing(self) -> bool:
        """Whether its source is gone or cannot be read."""
        return self.source is not None and not (os.path.isfile(self.source) and os.access(self.source, os.R_OK))


def apply_selection(
    selection: Selection,
    folder: Path,
    how: str,
    form: str,
    store_path: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Bring the kept slices to `folder`; see `lim_gpu.Selection.apply`."""
    _check(how, form)
    reporter = reporter or Reporter(quiet=True)
    with SliceStore(store_path) as store:
        selection.check_store(store)
        asked = fingerprint([store.fingerprint, selection.kept(), how, form, _intensity(selection).describe()])
        standing = _standing(folder, asked, overwrite)
        pieces = _pieces(selection, store, how, form)
        former = [] if standing else _former(folder, pieces)
        missing = [piece for piece in pieces if piece.missing]
        uneven = [piece.name for piece in pieces if form == "nifti" and _is_uneven(piece)]
        _warn_of_uneven(uneven, reporter)  # before there are files that do not say it
        record = {"format": FORMAT, "version": VERSION, "how": how, "as": form, "fingerprint": asked}
        done = 0 if dry_run else _make(pieces, folder, record, standing, former, reporter)
    values = {"folder": str(folder), "how": how, "as": form, "dry_run": dry_run, "files": len(pieces) - len(missing)}
    values |= {"slices": sum(len(piece.rows) for piece in pieces if not piece.missing), "written": done}
    values |= {"missing": [piece.source for piece in missing], "uneven": uneven, "unchanged": standing and not done}
    return Outcome(values, _lines(values, pieces, missing), bool(missing))


def _check(how: str, form: str) -> None:
    for name, value, known in (("how", how, WAYS), ("as", form, FORMS)):
        if value not in known:
            raise unknown(name, value, known)
    if form in ("nifti", "png") and how != "copy":
        raise UsageError(f"{form} files are written, there is nothing to {how}. Give `copy`, or another form")


def _intensity(selection: Selection) -> Intensity:
    """How the selection saw its slices; the paper's where it compared none."""
    return Intensity.described(selection.record["parameters"].get("intensity"))


def _standing(folder: Path, asked: str, overwrite: bool) -> bool:
    """Whether `folder` was begun by the same call. UsageError when it holds anything else that must stay."""
    check_folder(folder, holds=", whose files.csv is the list")
    inside = {path.name for path in folder.iterdir()} - {".lock"} if folder.exists() else set()
    if not inside:
        return False
    record = read_json(folder / "applied.json") if "applied.json" in inside else None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UsageError(f"{folder}: holds other files. Give an empty or a new folder")
    if record.get("fingerprint") != asked and not overwrite:
        raise UsageError(f"{folder}: holds the files of another selection or form. Give --overwrite, or another folder")
    return record.get("fingerprint") == asked


def _pieces(selection: Selection, store: SliceStore, how: str, form: str) -> list[Piece]:
    if form == "nifti":
        return _volumes(selection, store)
    if form == "png":
        return _pictures(selection, store)
    rows, dropped = (source_rows(selection, store.path, kept) for kept in (True, False))
    if form == "dicom":
        _require_dicom(store, {row["volume"] for row in rows})
    return _sources(rows, dropped, how)


def _require_dicom(store: SliceStore, keys: set[str]) -> None:
    for key in keys:
        with store[key] as volume:
            if volume.header.source != "dicom":
                raise UsageError(f"volume {key} comes from {volume.header.source} files, not DICOM. Give source")


def _sources(rows: Sequence[dict[str, Any]], dropped: Sequence[dict[str, Any]], how: str) -> list[Piece]:
    """A piece a file. Below the folder they lie as they do below the one that holds all sources, kept or not."""
    by_path: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_path.setdefault(os.path.abspath(row["image"]), []).append(row)
    others = Counter(os.path.abspath(row["image"]) for row in dropped)
    root = os.path.commonpath([os.path.dirname(path) for path in (*by_path, *others)])
    makers: dict[str, Callable[..., Any]] = {"copy": shutil.copy2, "link": os.symlink, "list": _nothing}
    return [
        Piece(
            path if how == "list" else os.path.relpath(path, root), own, partial(makers[how], path), path, others[path]
        )
        for path, own in by_path.items()
    ]


def _nothing(_source: str, _target: Path) -> None:
    """A list makes no file."""


def _kept_rows(selection: Selection) -> dict[str, list[dict[str, Any]]]:
    """The kept slices by volume, as rows of files.csv without a source."""
    found: dict[str, list[dict[str, Any]]] = {}
    z = {volume.key: volume.z for volume in selection.volumes}
    for key, i in selection.kept():
        row = {"volume": key, "slice": i, "z": float(z[key][i]), "sop_uid": "", "frame": 0}
        found.setdefault(key, []).append(row)
    return found


def _volumes(selection: Selection, store: SliceStore) -> list[Piece]:
    pieces = []
    for key, rows in _kept_rows(selection).items():
        framed = [row | {"frame": frame} for frame, row in enumerate(rows)]
        make = partial(write_nifti, store[key], [row["slice"] for row in rows])
        pieces.append(Piece(f"{key}.nii.gz", framed, make))
    return pieces


def _pictures(selection: Selection, store: SliceStore) -> list[Piece]:
    intensity = _intensity(selection)
    return [
        Piece(f"{key}/{row['slice']:05d}.png", [row], partial(write_png, store[key], row["slice"], intensity))
        for key, rows in _kept_rows(selection).items()
        for row in rows
    ]


def _former(folder: Path, pieces: Sequence[Piece]) -> list[Path]:
    """The files that another call made in `folder`, by its files.csv; of a list none, whose files are the sources.

    Raises UsageError where it did not end, and where a file that it did not make has the name of one of `pieces`.
    """
    if not (folder / "applied.json").exists():
        return []
    if not (folder / "files.csv").exists():
        raise UsageError(f"{folder}: another call was interrupted here. Run it again first, or give another folder")
    with open(folder / "files.csv", newline="", encoding="utf-8") as file:
        own = {row["file"] for row in csv.DictReader(file) if _lies_below(row.get("file", ""))}
    for piece in pieces:
        if piece.name not in own and _lies_below(piece.name) and os.path.lexists(folder / piece.name):
            raise UsageError(f"{folder / piece.name}: is in the way. Move it, or give another folder")
    return [folder / name for name in sorted(own)]


def _lies_below(name: str) -> bool:
    """Whether a file of this name is one within a folder."""
    return not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] not in (".", "..")


def _remove(files: Sequence[Path], folder: Path) -> None:
    """Remove the files of another call, and the folders that it made, the table of all at last."""
    for path in files:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty yet
            os.removedirs(path.parent)
    (folder / "files.csv").unlink(missing_ok=True)


def _make(
    pieces: Sequence[Piece],
    folder: Path,
    record: dict[str, Any],
    standing: bool,
    former: Sequence[Path],
    reporter: Reporter,
) -> int:
    """Make what is not there; returns how many files were made, files.csv among them."""
    how = record["how"]
    left = [piece for piece in pieces if how != "list" and not piece.missing]
    with locked(folder):
        if not standing:
            _remove(former, folder)
            write_json(folder / "applied.json", record)
        left = [piece for piece in left if not os.path.lexists(folder / piece.name)]
        for parent in {(folder / piece.name).parent for piece in left} | {folder}:
            remove_stale(parent)
        with reporter.track(how, len(left), "files") as advance:
            for piece in left:
                _place(piece, folder / piece.name, how)
                advance(1)
        mode = 0o600 if record["as"] in ("source", "dicom") else 0o644  # it names the user's files
        return len(left) + _write_table(folder / "files.csv", _table(pieces), mode)


def _write_table(path: Path, text: str, mode: int) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text, mode)
    return True


def _place(piece: Piece, target: Path, how: str) -> None:
    if how == "link":
        target.parent.mkdir(parents=True, exist_ok=True)
        piece.make(target)
        return
    with replacing(target) as temporary:
        piece.make(temporary)


def _table(pieces: Sequence[Piece]) -> str:
    made = [(piece.name, row) for piece in pieces if not piece.missing for row in piece.rows]
    rows = ([row["volume"], row["slice"], repr(row["z"]), name, row["frame"], row["sop_uid"]] for name, row in made)
    return csv_text(COLUMNS, rows)


def _lines(values: dict[str, Any], pieces: Sequence[Piece], missing: Sequence[Piece]) -> list[str]:
    what = f"{counted(values['slices'], 'slice')} in {counted(values['files'], 'file')} -> {values['folder']}"
    state = "plan: " if values["dry_run"] else "unchanged: " if values["unchanged"] else ""
    lines = [f"{state}{what}, files.csv"]
    if missing:
        first = f"{missing[0].source} (volume {missing[0].rows[0]['volume']}, slice {missing[0].rows[0]['slice']})"
        total = f"{len(missing)} of {counted(len(pieces), 'source file')}"
        lines.append(f"missing: {total}, the first {first}. Bring them back and run again")
    if shared := sum(piece.dropped > 0 for piece in pieces):
        holds = f"{counted(shared, 'file')} {'holds' if shared == 1 else 'hold'} dropped slices as well"
        lines.append(f"{holds}. Form nifti or png leaves them out")
    if uneven := len(values["uneven"]):
        lines.append(f"slices lie unevenly in {uneven:,} of {counted(len(pieces), 'file')}. Their z_mm is in files.csv")
    return lines


def _warn_of_uneven(names: Sequence[str], reporter: Reporter) -> None:
    if names:
        example = names[0] if len(names) == 1 else f"{len(names)} files such as {names[0]}"
        one_step = "NIfTI has one step, here their median"
        reporter.warn(f"{example}: slices that lie unevenly. {one_step}; files.csv says where each lies, in z_mm")


def _is_uneven(piece: Piece) -> bool:
    """Whether the steps between its slices differ by more than what a table of decimals rounds."""
    steps = np.diff([row["z"] for row in piece.rows])
    return len(steps) > 0 and bool(np.ptp(steps) > UNEVEN)
