"""Corrections of a selection by hand: which slices shall be kept as well, and which not.

As options and as a text file, a line a change, `#` before a remark:

    add 3c30df7469cb8d2d:3,5-9
    drop 3c30df7469cb8d2d:12

A volume is a key or the beginning of one; slices are numbers and ranges, both ends included. A selection's CSV whose
column `kept` was changed by hand is such a file, too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lim_gpu.errors import InputError, UsageError, unreadable

if TYPE_CHECKING:
    from lim_gpu.selection import Selection, VolumeSelection

PLACES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
NEEDED = ("volume", "slice", "kept")
Places = set[tuple[str, int]]  # volume key, slice


@dataclass
class Edits:
    """Slices that shall be kept, and slices that shall not."""

    add: Places = field(default_factory=set)
    drop: Places = field(default_factory=set)

    def take(self, what: str, places: Places) -> None:
        """Note `places` as what shall be added or dropped."""
        (self.add if what == "add" else self.drop).update(places)

    def check(self) -> None:
        """Raise UsageError for a slice that shall be both, and where nothing shall change."""
        if both := sorted(self.add & self.drop):
            raise UsageError(f"slice {both[0][1]} of volume {both[0][0]} is added and dropped. Give one of the two")
        if not (self.add or self.drop):
            raise UsageError("nothing is to be changed. Give --add, --drop or --edits")

    def lines(self) -> list[str]:
        """The same as lines of a file."""
        named = [(what, places) for what, places in (("add", self.add), ("drop", self.drop)) if places]
        return [f"{what} {text}" for what, places in named for text in spelled(places)]


def read_edits(selection: Selection, add: Sequence[str], drop: Sequence[str], file: Path | None) -> Edits:
    """What the texts VOLUME:SLICES and the file ask for.

    Raises UsageError for a volume or a slice that the selection does not have, a contradiction, or nothing at all;
    InputError for a file of another form.
    """
    edits = Edits()
    for what, texts in (("add", add), ("drop", drop)):
        for text in texts:
            edits.take(what, _places(text, selection))
    if file is not None:
        _read_file(file, selection, edits)
    edits.check()
    return edits


def _read_file(path: Path, selection: Selection, edits: Edits) -> None:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no text in UTF-8. Save it as such") from None
    if lines and set(NEEDED) <= set(lines[0].split(",")):
        _compare_table(path, lines, selection, edits)
        return
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in ("add", "drop"):
            raise InputError(f"{path}: line {number} is no change. Give add VOLUME:SLICES or drop VOLUME:SLICES")
        try:
            edits.take(words[0], _places(words[1], selection))
        except UsageError as error:
            raise InputError(f"{path}: line {number}: {error}") from None


def _compare_table(path: Path, lines: Sequence[str], selection: Selection, edits: Edits) -> None:
    """What a CSV with the columns volume, slice and kept says otherwise than the selection."""
    kept = set(selection.kept())
    known = {volume.key: len(volume.kept) for volume in selection.volumes}
    # a selection's own CSV, which may have lost lines by hand: not a list of files, which `labelled.listed` reads
    for number, row in enumerate(csv.DictReader(lines), 2):
        key, text, wanted = (str(row.get(name) or "") for name in NEEDED)
        if not text.isdecimal() or int(text) >= known.get(key, 0) or wanted not in ("0", "1"):
            raise InputError(f"{path}: line {number} is no slice of the selection with kept 0 or 1. Correct it")
        place = (key, int(text))
        if (wanted == "1") != (place in kept):
            edits.take("add" if wanted == "1" else "drop", {place})


def _places(text: str, selection: Selection) -> Places:
    name, colon, places = text.rpartition(":")
    if not colon or not name or not PLACES.fullmatch(places):
        raise UsageError(f"{text!r} is not VOLUME:SLICES. Give a key and numbers, such as 3c30df7469cb8d2d:3,5-9")
    volume = _volume(name, selection)
    found = {i for part in places.split(",") for i in _range(part)}
    if found and max(found) >= len(volume.kept):
        raise UsageError(f"{text!r}: volume {volume.key} has no such slice. Give 0 to {len(volume.kept) - 1}")
    return {(volume.key, i) for i in found}


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if int(last or first) < int(first):
        raise UsageError(f"slices {text}: the second is below the first. Give {last}-{first}")
    return range(int(first), int(last or first) + 1)


def _volume(name: str, selection: Selection) -> VolumeSelection:
    found = [volume for volume in selection.volumes if volume.key.startswith(name)]
    if len(found) != 1:
        what = f"{len(found)} volumes" if found else "no volume"
        raise UsageError(f"{name!r} names {what} of the selection. Give the key as its CSV has it")
    return found[0]


def spelled(places: Iterable[tuple[str, int]]) -> list[str]:
    """KEY:SLICES for each volume, ranges written short."""
    by_key: dict[str, list[int]] = {}
    for key, i in sorted(places):
        by_key.setdefault(key, []).append(i)
    return [f"{key}:{','.join(_runs(slices))}" for key, slices in by_key.items()]


def _runs(slices: Sequence[int]) -> list[str]:
    parts = np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1)
    return [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
