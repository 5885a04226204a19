"""What a labelled data set holds, without its pixels: files, labels, patients, and a split where one is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.files import file_sha256, fingerprint
from lim_gpu.labelled.listed import LISTS, read_list
from lim_gpu.labelled.parts import PARTS, folder_parts, part_of, patient_column, pictures_below, visible_folders
from lim_gpu.natural import natural_key
from lim_gpu.pictures import ENDINGS

ONE_CLASS = "image"  # of which all images are that have masks


@dataclass(frozen=True)
class Table:
    """The n images of `path` in their order.

    files: (n) names relative to the folder, or "part/index" within an .npz; labels: (n,) places in `classes`; patients:
    (n) or None where the data name none; split: (n,) places in `PARTS`, or None where the data fix no split; masks: (n)
    names of their masks where those are what is known of the images, which then are of one class; alike: (n) names of
    groups of near-duplicates, a number of its own for an image of none, or None where no groups are given.
    """

    path: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    patients: tuple[str, ...] | None = None
    split: NDArray[np.int64] | None = None
    masks: tuple[str, ...] | None = None
    alike: tuple[str | int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def archive(self) -> bool:
        """Whether the images stand in one MedMNIST .npz file."""
        return self.path.suffix == ".npz"

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every image's file, or of its pixels within an .npz. Raises InputError for what cannot be read."""
        if self.archive:
            with open_npz(self.path) as archive:
                arrays = [read_array(archive, self.path, f"{part}_images") for part in PARTS]
            return tuple(hashlib.sha256(image.tobytes()).hexdigest() for array in arrays for image in array)
        return tuple(file_sha256(self.path / name) for name in self.files)

    def fingerprint(self) -> str:
        """Changes with any image, label, patient, group or part; with nothing else."""
        split = None if self.split is None else self.split.tolist()
        about: list[Any] = [self.files, self.digests, self.labels.tolist(), self.classes, self.patients, split]
        about += [] if self.masks is None else [self.mask_digests()]
        return fingerprint(about if self.alike is None else [*about, {"alike": self.alike}])

    def mask_path(self, place: int) -> Path | None:
        """The file of the mask of an image, None where nothing is on it."""
        name = (self.masks or ())[place]
        return self.path / name if name else None

    def mask_digests(self) -> list[str]:
        """SHA-256 of every mask's file, "" without one."""
        paths = [self.mask_path(place) for place in range(len(self))]
        return [file_sha256(path) if path else "" for path in paths]

    def groups(self, pixels: Sequence[str] | None = None) -> NDArray[np.int64]:
        """(n,) what must not be torn apart: images of one patient, alike or equal, have one number.

        pixels: (n) digests of the decoded pixels, for images that are equal though their files are not.
        """
        number = np.arange(len(self))
        for names in (self.patients, self.alike, self.digests, pixels):
            first: dict[str | int, int] = {}
            for place, name in enumerate(names or ()):
                other = number[first.setdefault(name, place)]
                if number[place] != other:
                    number[number == number[place]] = other
        return number

    def counts(self, places: NDArray[np.int64]) -> dict[str, int]:
        """Images of each class among `places`."""
        numbers = np.bincount(self.labels[places], minlength=len(self.classes))
        return {name: int(number) for name, number in zip(self.classes, numbers, strict=True)}


def read_table(path: Path, split: Path | None = None, *, masks: bool = False) -> Table:
    """Read DATA: a folder with split.csv or labels.csv, a folder per class, or a MedMNIST .npz.

    split: a list file,label,split in place of the folder's own, its paths relative to `path`. masks: lists have mask in
    place of label. Raises InputError, in one line, for what is missing, contradictory or unknown.
    """
    if masks and not any((path / name).is_file() for name in LISTS) and split is None:
        raise InputError(f"{path}: has no list of masks. Add labels.csv with file,mask")
    if path.suffix == ".npz":
        if split is not None:
            raise InputError(f"{split}: {path} holds its own split. Give a folder, or no --split")
        return _read_npz(path)
    if path.suffix == ".csv":
        raise InputError(f"{path}: is a list. Give the folder to which its paths are relative, and --split {path}")
    if not path.is_dir():
        raise InputError(f"{path}: no such folder. Give a folder with split.csv or labels.csv, or a MedMNIST .npz")
    if split is not None:
        return _read_csv(path, split, True, masks)
    for name in LISTS:
        if (path / name).is_file():
            return _read_csv(path, path / name, name == "split.csv", masks)
    return _read_folders(path)


def assemble(
    path: Path,
    files: list[str],
    labels: list[str],
    patients: list[str] | None,
    parts: list[str] | None,
    masks: list[str] | None = None,
) -> Table:
    """A table of all these, its split checked. InputError for fewer than two classes where no masks are given."""
    classes = tuple(sorted(set(labels), key=natural_key))
    if len(classes) < 2 and not (masks and classes):
        raise InputError(
            f"{path}: {'one class only: ' + classes[0] if classes else 'no images'}. Give two or more classes"
        )
    split = None if parts is None else np.array([PARTS.index(part) for part in parts], dtype=np.int64)
    places = np.array([classes.index(label) for label in labels], dtype=np.int64)
    of_patients, of_masks = (None if names is None else tuple(names) for names in (patients, masks))
    table = Table(path, tuple(files), places, classes, of_patients, split, of_masks)
    if split is not None:
        _check_split(table, split)
    return table


def _check_split(table: Table, split: NDArray[np.int64]) -> None:
    for part in ("train", "test"):
        counts = table.counts(np.flatnonzero(split == PARTS.index(part)))
        absent = [name for name, count in counts.items() if not count]
        if absent:
            raise InputError(
                f"{table.path}: the {part} part has no image of class {', '.join(absent)}. Correct the split"
            )
    seen: dict[str, int] = {}
    for patient, part in zip(table.patients or (), split.tolist(), strict=False):
        if seen.setdefault(patient, part) != part:
            where = f"{PARTS[seen[patient]]} and {PARTS[part]}"
            raise InputError(f"{table.path}: patient {patient} stands in {where}. Put each patient into one part")


def _read_csv(folder: Path, path: Path, divided: bool, masks: bool) -> Table:
    target = "mask" if masks else "label"
    rows = read_list(path, ("file", target, "split") if divided else ("file", target))
    divided = "split" in rows[0]
    patient = patient_column(rows[0])
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if patient and not row[patient]:
            raise InputError(f"{path}: line {line} has no {patient}. Complete it")
        if lines.setdefault(row["file"], line) != line:
            raise InputError(f"{path}: {row['file']} stands in lines {lines[row['file']]} and {line}. Remove one")
        if divided and part_of(row["split"]) is None:
            raise InputError(f"{path}: line {line}: split {row['split']!r} is unknown. Give {', '.join(PARTS)}")
        if not (folder / row["file"]).is_file():
            where = f"{folder}, to which paths are relative"
            raise InputError(f"{path}: line {line}: there is no file {row['file']} in {where}. Correct the line")
        _refuse_scan(folder / row["file"], folder)
        if masks and not (folder / row["mask"]).is_file():
            raise InputError(f"{path}: line {line}: there is no mask {row['mask']} in {folder}. Correct the line")
    labels = [ONE_CLASS if masks else row["label"] for row in rows]
    patients = [row[patient] for row in rows] if patient else None
    parts = [part_of(row["split"]) or "" for row in rows] if divided else None
    return assemble(folder, list(lines), labels, patients, parts, [row["mask"] for row in rows] if masks else None)


def _read_folders(folder: Path) -> Table:
    """A folder per class; below folders of train, val and test where these are there."""
    names = sorted((entry.name for entry in visible_folders(folder)), key=natural_key)
    split = folder_parts(folder, names)
    classes = sorted({e.name for name in split for e in visible_folders(folder / name)}) if split else names
    if taken := [name for name in classes if part_of(name)]:
        raise InputError(f"{folder}: {taken[0]} stands within a part and is called like one. Rename that class")
    if not classes:
        raise InputError(f"{folder}: neither split.csv nor labels.csv nor a folder per class. Add one of them")
    files, labels, parts = [], [], []
    for part in split or [""]:
        for label in classes:
            for path in sorted(pictures_below(folder / part / label), key=lambda p: natural_key(str(p))):
                files.append(str(path.relative_to(folder)))
                labels.append(label)
                parts.append(split.get(part, ""))
    if not files:
        for path in sorted(folder.rglob("*")):
            _refuse_scan(path, folder)
    return assemble(folder, files, labels, None, parts if split else None)


def _refuse_scan(path: Path, data: Path) -> None:
    """Raise InputError for a DICOM or NIfTI file, with the way to train on it."""
    if _is_scan(path):
        way = f"lim-gpu ingest {data} -o slices, then lim-gpu finetune slices --labels TABLE"
        columns = "sop_uid,label or volume,slice,label"
        raise InputError(f"{path}: is no picture but a scan. Run {way}, a CSV of {columns}")


def _is_scan(path: Path) -> bool:
    if path.suffix.lower() in ENDINGS or not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.name.lower().endswith((".dcm", ".nii", ".nii.gz")) or file.read(132)[128:] == b"DICM"


def open_npz(path: Path) -> Any:
    """A MedMNIST file, its arrays unread. Pickled arrays are refused by NumPy when they are read."""
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged zip raises nearly anything
        raise InputError(f"{path}: cannot be read as .npz ({_cause(error)}). Download it again") from None
    absent = [f"{p}_{what}" for p in PARTS for what in ("images", "labels") if f"{p}_{what}" not in archive]
    if absent:
        raise InputError(f"{path}: has no array {', '.join(absent)}. Give a MedMNIST file")
    return archive


def read_array(archive: Any, path: Path, name: str) -> NDArray[Any]:
    """One array of a MedMNIST file."""
    try:
        return np.asarray(archive[name])
    except Exception as error:  # as above
        raise InputError(f"{path}: {name} cannot be read ({_cause(error)}). Download it again") from None


def _read_npz(path: Path) -> Table:
    files, labels, parts = [], [], []
    with open_npz(path) as archive:
        for part in PARTS:
            values = read_array(archive, path, f"{part}_labels")
            if values.ndim == 2 and values.shape[1] > 1:
                raise InputError(f"{path}: {values.shape[1]} labels an image. Give a data set of one label an image")
            if values.dtype.kind not in "iub" and not (values.dtype.kind == "f" and (values == np.rint(values)).all()):
                raise InputError(f"{path}: {part}_labels hold {values.dtype}, no whole numbers. Give a number a class")
            files += [f"{part}/{place}" for place in range(len(values))]
            labels += [str(int(value)) for value in values.ravel()]
            parts += [part] * len(values)
    return assemble(path, files, labels, None, parts)


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0].strip()[:120]
