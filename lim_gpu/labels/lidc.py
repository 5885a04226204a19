"""Lung nodules of LIDC-IDRI: XML files, one a scan, with the outlines that up to four readers drew.

Outlines of one reader round one nodule are a mark. Marks that come closer than a pixel are of one nodule; what at least
half of its marks enclose is its mask: what pylidc's `cluster_annotations` and `consensus` find in LIDC's annotations.
An outline is the first pixels outside the nodule (Armato et al. 2011), and a nodule below 3 mm is a point, which
encloses nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lim_gpu.errors import InputError
from lim_gpu.labels.masks import Marked, Mask
from lim_gpu.labels.origins import Origins, Place
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume

ENDINGS = (".xml",)
INSIDE = 255  # in the mask
SAME_Z = 0.01  # mm


@dataclass(frozen=True)
class Outline:
    """A closed line on one slice: points (m, 2) of column and row. inclusion: it encloses nodule, and no hole."""

    sop: str
    z: float
    inclusion: bool
    points: NDArray[np.int64]


Mark = tuple[Outline, ...]


def marked_volumes(path: str, store: SliceStore, origins: Origins, counted: Counter[str]) -> Iterator[Marked]:
    """The nodules of a file as masks of the volume that it is of; nothing where the store has none of its slices.

    A series that is several volumes of the store gives each its part. Raises InputError for another XML.
    """
    by_volume: dict[str, list[dict[int, list[Outline]]]] = defaultdict(list)
    volumes = None
    for mark in read_marks(path):
        volumes = _volumes_of(mark, origins) if volumes is None else volumes | _volumes_of(mark, origins)
        if all(len(outline.points) < 3 for outline in mark):
            counted["nodules below 3 mm"] += 1
            continue
        for key, outlines in _placed(mark, store, origins).items():
            by_volume[key].append(outlines)
    if not volumes:
        counted["XML files of scans that are not in the store"] += 1
    for key in volumes or ():
        with store[key] as volume:
            yield Marked(key, nodule_masks(by_volume[key], volume))


def _volumes_of(mark: Mark, origins: Origins) -> set[str]:
    return {place.volume for outline in mark if (place := origins.find(outline.sop))}


def read_marks(path: str) -> list[Mark]:
    """Every reader's marks. Raises InputError for a file that is none of LIDC."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{Path(path).name}: no whole XML ({error}). Copy it again") from None
    if not root.tag.endswith("LidcReadMessage"):
        raise InputError(f"{Path(path).name}: holds no LidcReadMessage. Give the XML files of LIDC-IDRI's CT scans")
    try:
        marks = [tuple(map(_outline, one.iterfind("{*}roi"))) for one in root.iterfind(".//{*}unblindedReadNodule")]
    except (TypeError, ValueError):
        raise InputError(f"{Path(path).name}: an outline has no place or no points. Copy it again") from None
    return [mark for mark in marks if mark]


def _outline(roi: ElementTree.Element) -> Outline:
    edge = [(_number(point, "xCoord"), _number(point, "yCoord")) for point in roi.iterfind("{*}edgeMap")]
    inclusion = (roi.findtext("{*}inclusion") or "TRUE").strip().upper() != "FALSE"
    points = np.array(edge, dtype=np.int64).reshape(-1, 2)
    if not len(points):
        raise ValueError
    return Outline(roi.findtext("{*}imageSOP_UID", "").strip(), _number(roi, "imageZposition"), inclusion, points)


def _number(element: ElementTree.Element, name: str) -> float:
    value = float(element.findtext(f"{{*}}{name}", ""))
    if not np.isfinite(value):
        raise ValueError
    return value


def _placed(mark: Mark, store: SliceStore, origins: Origins) -> dict[str, dict[int, list[Outline]]]:
    """The outlines of a mark by volume and slice: by UID, else by position beside those that have one.

    Of slices that lie at one place a store holds one alone.
    """
    found: dict[str, dict[int, list[Outline]]] = defaultdict(lambda: defaultdict(list))
    keys = _volumes_of(mark, origins)
    for outline in mark:
        place = origins.find(outline.sop) or _by_position(outline, store, keys)
        if place is not None:
            found[place.volume][place.slice].append(outline)
    return found


def _by_position(outline: Outline, store: SliceStore, keys: set[str]) -> Place | None:
    for key in sorted(keys):
        distance = np.abs(store[key].z - outline.z)
        if distance.min() < SAME_Z:
            return Place(key, int(distance.argmin()))
    return None


def nodule_masks(marks: Sequence[dict[int, list[Outline]]], volume: Volume) -> dict[int, Mask]:
    """Masks by slice of the nodules that the marks (outlines by slice) agree on."""
    masks: dict[int, Mask] = {}
    for nodule in _nodules(marks, volume):
        for i in sorted({i for mark in nodule for i in mark}):
            drawn = [enclosed(mark.get(i, ()), volume.entry.shape[1:]) for mark in nodule]
            agreed = 2 * np.sum(drawn, axis=0) >= len(nodule)
            masks[i] = np.where(agreed, np.uint8(INSIDE), masks.get(i, np.uint8(0)))
    return masks


def _nodules(marks: Sequence[dict[int, list[Outline]]], volume: Volume) -> list[list[dict[int, list[Outline]]]]:
    """The marks of each nodule: those that a chain of close ones connects."""
    from scipy.spatial import cKDTree

    trees = [cKDTree(_points(mark, volume)) for mark in marks]
    group = list(range(len(marks)))
    for a, b in combinations(range(len(marks)), 2):
        if group[a] != group[b] and trees[a].query(trees[b].data)[0].min() <= 1:
            group = [group[a] if other == group[b] else other for other in group]
    return [[mark for mark, own in zip(marks, group, strict=True) if own == one] for one in sorted(set(group))]


def _points(mark: dict[int, list[Outline]], volume: Volume) -> NDArray[np.float64]:
    """(m, 3): column, row and position of all points, in pixels' widths."""
    _step, row, column = volume.header.spacing or (1.0, 1.0, 1.0)
    z = volume.z
    parts = [
        np.column_stack([one.points * (1, row / column), np.full(len(one.points), z[i] / column)])
        for i, outlines in mark.items()
        for one in outlines
    ]
    return np.concatenate(parts)


def enclosed(outlines: Sequence[Outline], shape: Sequence[int]) -> NDArray[np.bool_]:
    """(H, W): what the outlines enclose, without the lines themselves and the holes."""
    inside = np.zeros(tuple(shape), dtype=np.bool_)
    for outline in sorted(outlines, key=lambda one: not one.inclusion):
        if len(outline.points) < 3:
            continue
        canvas = Image.new("L", (shape[1], shape[0]))
        ImageDraw.Draw(canvas).polygon(outline.points.ravel().tolist(), fill=1, outline=0 if outline.inclusion else 1)
        drawn = np.asarray(canvas) > 0
        inside = inside | drawn if outline.inclusion else inside & ~drawn
    return inside
