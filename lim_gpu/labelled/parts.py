"""Which part of a data set a name means, and which folders and columns say so: the one place that knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.pictures import ENDINGS

PARTS = ("train", "val", "test")
NAMES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "holdout": "test",
}
OF_A_PART = re.compile("(set|data|dataset|split|images|imgs)$")  # as in "test_set"
COLUMNS = {  # what the columns of a list are called, our own name first
    "file": ("file", "filename", "filepath", "path", "image", "imagepath"),
    "label": ("label", "class", "target", "category"),
    "split": ("split", "subset", "partition"),
}
PATIENTS = ("patient", "patientid", "subject", "subjectid", "group")


def part_of(name: str) -> str | None:
    """The part of `PARTS` that a name means, whatever its case and spelling; None for any other name."""
    plain = _plain(name)
    return NAMES.get(plain) or NAMES.get(OF_A_PART.sub("", plain))


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns of a list by our own names where they have one, else as they are, without spaces around them.

    Of several that could be meant, the one that has our name is it, else the first.
    """
    own = [name.strip() for name in names]
    for ours, others in COLUMNS.items():
        plain = [_plain(name) for name in own]
        if ours not in own and (found := next((other for other in others if other in plain), None)):
            own[plain.index(found)] = ours
    return own


def patient_column(columns: Iterable[str]) -> str | None:
    """The first of the columns of a list that names the patient."""
    return next((column for column in columns if _plain(column) in PATIENTS), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.casefold())


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, in no order, without those that file managers and notebooks leave behind."""
    return [entry for entry in folder.iterdir() if entry.is_dir() and not _is_left_behind(entry.name)]


def pictures_below(folder: Path) -> list[Path]:
    """The PNG and JPEG files below a folder, in no order, without what lies in hidden folders and is hidden."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    return [path for path in found if not any(map(_is_left_behind, path.relative_to(folder).parts))]


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def folder_parts(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The part of each of the folders `names` of a data set; none where they are classes.

    Raises InputError where some are parts and others are not, two are one part, or a train or test part is missing.
    """
    parts = {name: part for name in names if (part := part_of(name))}
    if not parts:
        return {}
    others = [name for name in names if name not in parts and pictures_below(folder / name)]
    if others:
        text = f"{', '.join(parts)} are parts of a split, {', '.join(others[:3])} no part. Rename or remove some"
        raise InputError(f"{folder}: {text}, or name the files in split.csv or labels.csv")
    found = list(parts.values())
    if double := next((part for part in found if found.count(part) > 1), None):
        both = ", ".join(name for name, part in parts.items() if part == double)
        raise InputError(f"{folder}: {both} are both the {double} part. Put them into one folder")
    if absent := [part for part in ("train", "test") if part not in found]:
        text = f"has {', '.join(parts)} and no {absent[0]} part. Add it, or give a folder per class"
        raise InputError(f"{folder}: {text}")
    return parts
