"""Which images are near-duplicates: HASH finds candidates whatever their size, SSIM or MI confirms them in pairs.

A pair counts when its hashes differ in at most `bits`, or when they differ in at most `candidates` and the small copies
are at least `threshold` alike. The evidence of every pair says which of the two it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, UsageError
from lim_gpu.leaks.images import Images, Item

MOST = 2_000_000  # candidates; beyond them the images are alike as a whole, and no list would help
MI_BINS = 32  # for 64 x 64 pixels; 100 would leave the bins empty
FLAT = 0  # the hash of an image without any gradient from left to right
KEPT_FIRST = ("test", "val", "train")  # when a pair lies across two parts


@dataclass(frozen=True)
class Rule:
    """How alike is too alike.

    bits        hash distance that suffices alone
    candidates  hash distance up to which a pair is confirmed, >= bits
    confirm     "ssim" or "mi", on copies of 64 x 64
    threshold   of that similarity: SSIM -1..1, MI 1..2
    """

    bits: int = 2
    candidates: int = 6
    confirm: str = "ssim"
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= self.candidates <= 64:
            what = f"--bits {self.bits} with --candidates {self.candidates}"
            raise UsageError(f"{what} finds nothing. Give 0 <= bits <= candidates <= 64")
        low, high = (-1, 1) if self.confirm == "ssim" else (1, 2)
        if not low <= self.threshold <= high:
            raise UsageError(
                f"--threshold {self.threshold}: {self.confirm} lies within {low} and {high}. Give a number there"
            )


@dataclass(frozen=True)
class Pair:
    """Images a < b by position, their distance, their confirmed similarity, and which of the two suffices."""

    a: int
    b: int
    bits: int
    value: float
    evidence: str


def find_pairs(images: Images, rule: Rule, across: bool) -> list[Pair]:
    """The near-duplicates, ascending by position; with `across`, only between collections or between splits.

    Raises InputError where that leaves no two images to compare: no pair is found in nothing.
    """
    from lim_gpu.similarity.hash import close_pairs

    groups = _groups(images, across)
    places = np.flatnonzero(images.hashes != FLAT)
    if len(np.unique(groups[places])) < 2:
        remedy = _nothing_compared(images, len(places), across)
        raise InputError(remedy)
    close = close_pairs(images.hashes[places], rule.candidates, groups[places])
    if len(close) > MOST:
        raise UsageError(f"{len(close):,} candidate pairs within {rule.candidates} bits. Give a lower --candidates")
    close[:, :2] = places[close[:, :2]]
    return _judged(close, images, rule)


def pairs_among(asked: Sequence[tuple[int, int]], images: Images, rule: Rule, across: bool) -> list[Pair]:
    """Those of the pairs `asked`, each a < b, that `find_pairs` finds; nothing else is compared."""
    places = np.array(asked, np.int64).reshape(-1, 2)
    hashes, groups = images.hashes[places], _groups(images, across)[places]
    bits = np.bitwise_count(hashes[:, 0] ^ hashes[:, 1]).astype(np.int64)
    close = (bits <= rule.candidates) & (hashes != FLAT).all(axis=1) & (groups[:, 0] != groups[:, 1])
    return _judged(np.column_stack([places, bits])[close], images, rule)


def _groups(images: Images, across: bool) -> NDArray[np.int64]:
    """Numbers (n,), equal for images that are not compared with each other."""
    names = [(item.collection, item.split) if across else item.group for item in images.items]
    _, groups = np.unique(np.array([str(name) for name in names]), return_inverse=True)
    return groups.astype(np.int64)


def _judged(close: NDArray[np.int64], images: Images, rule: Rule) -> list[Pair]:
    """The near-duplicates among candidates (k, 3): a, b and their distance in bits."""
    values = _confirmed(images.small, close, rule)
    pairs = []
    for (a, b, bits), value in zip(close.tolist(), values, strict=True):
        by_hash, by_value = bits <= rule.bits, value >= rule.threshold
        if by_hash or by_value:
            evidence = "both" if by_hash and by_value else "hash" if by_hash else rule.confirm
            pairs.append(Pair(a, b, bits, round(value, 6), evidence))
    return pairs


def _nothing_compared(images: Images, known: int, across: bool) -> str:
    """Why there are no two images to compare, and what to do."""
    where = ", ".join(dict.fromkeys(item.collection for item in images.items))
    if known < 2:
        return f"{where}: {known} of {len(images.items)} images are not blank. Give two or more to compare"
    if not across:
        return f"{where}: holds one volume, whose slices are neighbours by nature. Give another source beside it"
    return (
        f"{where}: no split is known, so --across compares nothing. Name it in split.csv (file,split), in folders "
        "train, val and test, or give two sources"
    )


def _confirmed(small: NDArray[np.uint8], pairs: NDArray[np.int64], rule: Rule) -> list[float]:
    from lim_gpu.similarity.blocks import Threads
    from lim_gpu.similarity.mi import mi_pair
    from lim_gpu.similarity.ssim import ssim_pair

    def value(pair: Sequence[int]) -> float:
        x, y = small[pair[0]], small[pair[1]]
        return ssim_pair(x, y, 255) if rule.confirm == "ssim" else mi_pair(x, y, MI_BINS)

    with Threads() as pool:
        return pool.map(value, pairs.tolist())


def flat_images(images: Images) -> int:
    """How many images have no gradient, such as blank ones: they are alike by hash and say nothing."""
    return int(np.count_nonzero(images.hashes == FLAT))


def relation(a: Item, b: Item) -> str:
    """What the pair lies across: collections, splits, or nothing."""
    if a.collection != b.collection:
        return "across collections"
    return "across splits" if a.split != b.split else "within"


def split_patients(items: Sequence[Item]) -> dict[str, list[str]]:
    """Patients who stand in several splits of one collection, with these splits."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in items:
        if item.patient and item.split:
            splits[item.collection, item.patient].add(item.split)
    return {patient: sorted(found) for (_, patient), found in splits.items() if len(found) > 1}


def leaking(items: Sequence[Item], pairs: Sequence[Pair], patients: dict[str, list[str]]) -> set[int]:
    """The images to leave out so that no pair and no patient lies across splits.

    Of a pair the one in the split that comes later in test, val, train goes, so that test and validation stay whole.
    """
    gone: set[int] = set()
    for pair in pairs:
        a, b = items[pair.a], items[pair.b]
        if a.split != b.split and a.collection == b.collection and not {pair.a, pair.b} & gone:
            gone.add(max(pair.a, pair.b, key=lambda i: split_place(items[i].split)))
    for i, item in enumerate(items):
        found = patients.get(item.patient, ())
        if found and split_place(item.split) > min(map(split_place, found)):
            gone.add(i)
    return gone


def split_place(split: str) -> int:
    """Where a split stands among those that are kept first."""
    return KEPT_FIRST.index(split) if split in KEPT_FIRST else len(KEPT_FIRST)
