"""Lists of pictures: split.csv, labels.csv and others like them, a line a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from lim_gpu.errors import InputError, unreadable
from lim_gpu.labelled.parts import columns_of

LISTS = ("split.csv", "labels.csv")  # that a folder may hold, the first one that is there counts


def read_list(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, one or more, as `rows_of` gives them. InputError for none."""
    rows = list(rows_of(path, columns))
    if not rows:
        raise InputError(f"{path}: lists no picture. Add a line for each")
    return rows


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, one after the other, by column; "" where a line ends early.

    columns  what every row must fill

    Columns that are known by other names or another case have ours: see `parts.columns_of`.

    Raises InputError for another text, a column that is missing, and a line with too few or too many values.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            spaced = ", " in file.readline()  # as some write, for whom the space is not of the value
            file.seek(0)
            reader = csv.DictReader(file, restval="", strict=True, skipinitialspace=spaced)
            named = reader.fieldnames = columns_of(reader.fieldnames or [])
            if absent := [column for column in columns if column not in named]:
                has = f", which has {','.join(named)}" if named else ""
                first = f"Give {','.join(columns)} in its first line{has}"
                raise InputError(f"{path}: has no column {', '.join(absent)}. {first}")
            for line, row in enumerate(reader, start=2):
                _check(path, line, row, columns)
                yield row
    except OSError as error:
        raise unreadable(path, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error}). Save it as one") from None


def _check(path: Path, line: int, row: dict[str, str], columns: Sequence[str]) -> None:
    if None in row:
        raise InputError(f"{path}: line {line} has too many columns. Quote what holds a comma")
    if empty := [column for column in columns if not row[column]]:
        raise InputError(f"{path}: line {line} has no {empty[0]}. Complete it")
