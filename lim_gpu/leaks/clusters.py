"""Near-duplicates as groups: images that pairs connect, of each group the one that stays, and what is left to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lim_gpu.files import csv_text
from lim_gpu.leaks.images import Item
from lim_gpu.leaks.search import Pair, split_place

COLUMNS = ("cluster", "keep", "image", "collection", "split", "label")


def find_clusters(items: Sequence[Item], pairs: Sequence[Pair]) -> list[list[int]]:
    """Groups of images by position, the largest first; in each the one that stays comes first.

    Two images stand in one group when a chain of pairs leads from one to the other, so its ends may differ more than a
    pair may. The one that stays is of the split that comes first in test, val, train, and there the first.
    """
    root = list(range(len(items)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for pair in pairs:
        a, b = sorted((find(pair.a), find(pair.b)))
        root[b] = a
    groups: dict[int, list[int]] = {}
    for i in sorted({i for pair in pairs for i in (pair.a, pair.b)}, key=lambda i: (split_place(items[i].split), i)):
        groups.setdefault(find(i), []).append(i)
    return sorted(groups.values(), key=lambda group: (-len(group), min(group)))


def clusters_csv(items: Sequence[Item], clusters: Sequence[Sequence[int]]) -> str:
    """A row an image of a group: the group's number from 1, keep 1 or 0, and what is known of the image."""
    rows = []
    for number, cluster in enumerate(clusters, 1):
        for place, i in enumerate(cluster):
            item = items[i]
            rows.append([number, int(place == 0), item.name, item.collection, item.split, item.label])
    return csv_text(COLUMNS, rows)


def keep_list(items: Sequence[Item], clusters: Sequence[Sequence[int]]) -> str:
    """A line an image to keep, relative to its source; below the source's name where there are several."""
    gone = {i for cluster in clusters for i in cluster[1:]}
    several = len({item.collection for item in items}) > 1
    names = [
        (Path(item.collection) / item.name).as_posix() if several else item.name
        for i, item in enumerate(items)
        if i not in gone
    ]
    return "".join(f"{name}\n" for name in names)
