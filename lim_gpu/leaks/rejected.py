"""Pairs that a person found to be none: checked before all images are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.labelled.listed import read_list
from lim_gpu.leaks.images import Images, Item
from lim_gpu.leaks.search import Pair, Rule, pairs_among

Names = frozenset[str]  # of a pair


def read_rejected(path: Path) -> set[Names]:
    """The pairs in a CSV with columns a and b."""
    return {frozenset((row["a"], row["b"])) for row in read_list(path, ["a", "b"])}


def names_of(pair: Pair, items: Sequence[Item]) -> Names:
    """The names of its images."""
    return frozenset((items[pair.a].name, items[pair.b].name))


def check_rejected(path: Path, rejected: set[Names], images: Images, rule: Rule, across: bool) -> None:
    """Raise InputError for a pair of `path` of which an image is not there, or that `rule` does not find anyway."""
    places: dict[str, list[int]] = {}
    for i, item in enumerate(images.items):
        places.setdefault(item.name, []).append(i)
    for pair in sorted(rejected, key=sorted):
        if absent := pair - set(places):
            raise InputError(f"{path}: {min(absent)} is no image of the sources. Give rows of pairs.csv")
    of_each = ((a, b) for pair in rejected for a in places[min(pair)] for b in places[max(pair)] if a != b)
    asked = sorted({(min(two), max(two)) for two in of_each})
    found = {names_of(pair, images.items) for pair in pairs_among(asked, images, rule, across)}
    for pair in sorted(rejected - found, key=sorted):
        raise InputError(f"{path}: {' and '.join(sorted(pair))} are no pair that is found. Give rows of pairs.csv")
