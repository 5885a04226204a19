"""Groups of images that are alike, as `lim-gpu leaks --clusters` writes them: a drawn split keeps them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.labelled.listed import rows_of

GROUP, IMAGES = "cluster", ("image", "file")  # columns, of which the second may have either name


def read_groups(path: Path, files: Sequence[str]) -> tuple[str | int, ...]:
    """(n) the group of each of n files, its own number where it is in none.

    path: a CSV with columns cluster and image, the images named as `files` are; others are passed by. Raises InputError
    for another file, an image in two groups, and where no file is in any: the list is of other images then.
    """
    group: dict[str, str] = {}
    for line, row in enumerate(rows_of(path, (GROUP,)), start=2):
        name = next((row[column] for column in IMAGES if row.get(column)), None)
        if name is None:
            raise InputError(f"{path}: line {line} has no image. Give {GROUP},{IMAGES[0]} in its first line")
        if group.setdefault(name, row[GROUP]) != row[GROUP]:
            raise InputError(f"{path}: {name} is in the groups {group[name]} and {row[GROUP]}. Put it into one")
    if group and group.keys().isdisjoint(files):
        raise InputError(f"{path}: names none of the images, such as {files[0]}. Give the groups of this data set")
    return tuple(group.get(name, place) for place, name in enumerate(files))
