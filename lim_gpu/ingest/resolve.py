"""Stacks to volumes: one slice at each place, and no two stacks woven into each other.

Copies of a slice are dropped. Slices that share a place, or lie between each other, are told apart by the header
(`splits.SPLITS`), by the element that does it with the fewest volumes. What nothing tells apart is an error that names
the files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lim_gpu.ingest.geometry import gaps
from lim_gpu.ingest.records import Frame, SourceError
from lim_gpu.ingest.series import FrameId, Stack, collisions, frame_id, places
from lim_gpu.ingest.splits import SPLITS

STACK = 3  # slices from which an even distance says that they are a stack of their own
Digests = Mapping[FrameId, str]


@dataclass(frozen=True)
class Copies:
    """The frames without copies, and how many copies each had."""

    frames: list[Frame]
    dropped: Counter[FrameId]


class CollisionError(SourceError):
    """Different slices at one place that nothing tells apart. `repeated`: all but the first at each place.

    `few`: whether those places are the exception, so that the stack without `repeated` is one stack.
    """

    def __init__(self, groups: Sequence[Sequence[Frame]], stack: Stack) -> None:
        ordered = [sorted(group, key=lambda f: (f.instance.found.order, f.index)) for group in groups]
        self.first = ordered[0][0]
        self.repeated = [frame for group in ordered for frame in group[1:]]
        self.few = 2 * len(groups) < len(stack.frames) - len(self.repeated)
        place = places([*stack.frames[:1], self.first])[1]
        names = " and ".join(_file_names(ordered[0]))
        detail = f"{len(ordered[0])} at {place:.3f} mm, {names}. Give only one of them as input"
        super().__init__("different slices at one position", detail)

    def __reduce__(self) -> tuple[type[SourceError], tuple[str, str]]:
        return SourceError, (self.cause, self.detail)


def _file_names(group: Sequence[Frame]) -> list[str]:
    files = {frame.instance.found.path for frame in group}
    frames = len(files) < len(group)
    return [os.path.basename(f.instance.found.path) + (f" frame {f.index + 1}" if frames else "") for f in group[:3]]


def same_instances(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Groups of frames that their headers call one: equal SOP instance and number, in files of their own."""
    groups: dict[object, list[Frame]] = {}
    for frame in frames:
        i = frame.instance
        if i.sop:
            groups.setdefault((i.series, i.sop, i.number, i.derived, frame.index), []).append(frame)
    return [group for group in groups.values() if len(group) > 1]


def without_copies(frames: Sequence[Frame], digests: Digests) -> Copies:
    """Drop all but the first of `same_instances` with equal pixels, whatever else a copy rounded."""
    doubles: set[FrameId] = set()
    dropped: Counter[FrameId] = Counter()
    for group in same_instances(frames):
        for original, copy in _equal_pixels(group, digests):
            doubles.add(copy)
            dropped[original] += 1
    return Copies([frame for frame in frames if frame_id(frame) not in doubles], dropped)


def _equal_pixels(group: Sequence[Frame], digests: Digests) -> Iterable[tuple[FrameId, FrameId]]:
    """(first, later) of the frames whose pixels were seen before in the group."""
    first: dict[str, FrameId] = {}
    for name in map(frame_id, group):
        original = first.setdefault(digests.get(name) or repr(name), name)
        if original != name:
            yield original, name


def resolve(stack: Stack, digests: Digests) -> list[Stack]:
    """Leave one slice at each place, and only slices of one stack. Raises `SourceError`."""
    single = _drop_identical(stack, digests)
    colliding = collisions(single.frames)
    if colliding:
        parts = _colliding_apart(single, stack, colliding, digests)
        return [woven for part in parts for woven in resolve(part, digests)]
    for element, parts in _divided(stack):
        if SPLITS[element].stacks and _are_woven(parts, digests):
            apart = [replace(part, apart=(*stack.apart, SPLITS[element].name)) for part in parts]
            return [woven for part in apart for woven in resolve(part, digests)]
    return [replace(single, mixed=_mixed(single))]


def _colliding_apart(
    single: Stack, stack: Stack, colliding: Sequence[Sequence[Frame]], digests: Digests
) -> list[Stack]:
    """The parts of a stack in which no place is shared any more. Raises `SourceError` where no element gives them."""
    for parts in [*(parts for _, parts in _divided(stack)), _parts(stack, slice(None))]:
        resolved = [_drop_identical(part, digests) for part in parts]
        if not any(collisions(part.frames) for part in resolved) and _are_stacks(resolved, colliding):
            return parts
    if stack.frames[0].position is None:
        raise SourceError("order unknown", "slices without a position share an InstanceNumber or have none")
    raise CollisionError(colliding, single)


def _are_stacks(parts: Sequence[Stack], colliding: Sequence[Sequence[Frame]]) -> bool:
    """Whether parts are more than single slices that a number of their own took apart: only a repeated slice may be.

    Slices that are all of one place, as those of a perfusion, are volumes of one slice.
    """
    alone = sum(len(part.frames) == 1 for part in parts)
    repeated = sum(len(group) - 1 for group in colliding)
    one_place = len(colliding) == 1 and len(colliding[0]) == sum(len(part.frames) for part in parts)
    return alone <= repeated or one_place


def _are_woven(parts: Sequence[Stack], digests: Digests) -> bool:
    """Whether each part is a stack of its own, and slices of one lie between two neighbours of another."""
    if any(part.frames[0].position is None or len(part.frames) < STACK for part in parts):
        return False
    parts = [_drop_identical(part, digests) for part in parts]
    heights = _heights(parts)
    missing = [gaps(z, [f.thickness for f in part.frames]) for z, part in zip(heights, parts, strict=True)]
    if any(4 * np.count_nonzero(holes) >= len(holes) for holes in missing):
        return False
    return any(
        _between(z, holes, np.concatenate([*heights[:i], *heights[i + 1 :]]))
        for i, (z, holes) in enumerate(zip(heights, missing, strict=True))
    )


def _heights(parts: Sequence[Stack]) -> list[np.ndarray]:
    """Ascending places of the slices of each part, along one normal."""
    first = parts[0].frames[:1]
    return [np.array(places([*first, *part.frames])[1:]) for part in parts]


def _mixed(stack: Stack) -> tuple[str, ...]:
    """Names of elements that change how slices look and, though they set no stacks apart, lie between each other."""
    names = []
    for element, parts in _divided(stack):
        if SPLITS[element].look and stack.frames[0].position is not None:
            ends = sorted((z.min(), z.max()) for z in _heights(parts))
            if any(later < earlier for (_, earlier), (later, _) in pairwise(ends)):
                names.append(SPLITS[element].name)
    return tuple(names)


def _between(z: np.ndarray, missing: np.ndarray, others: np.ndarray) -> bool:
    """Whether one of `others` lies between neighbours in ascending `z`, where no slice is `missing`."""
    after = np.searchsorted(z, others)
    inside = (after > 0) & (after < len(z))
    return bool((~missing[after[inside] - 1]).any())


def _divided(stack: Stack) -> list[tuple[int, list[Stack]]]:
    """The stack divided by each element that has several values in it: the element, the parts; fewest parts first."""
    found = [(element, _parts(stack, element)) for element in range(len(SPLITS))]
    return sorted(((e, parts) for e, parts in found if len(parts) > 1), key=lambda one: len(one[1]))


def _parts(stack: Stack, element: int | slice) -> list[Stack]:
    parts: dict[object, list[Frame]] = {}
    for frame in stack.frames:
        parts.setdefault(frame.splits[element], []).append(frame)
    return [replace(stack, frames=frames, split=stack.split + repr(value)) for value, frames in parts.items()]


def _drop_identical(stack: Stack, digests: Digests) -> Stack:
    """Without slices whose pixels are there already at the same place, which are counted."""
    doubles = {copy for group in collisions(stack.frames) for _, copy in _equal_pixels(group, digests)}
    frames = [frame for frame in stack.frames if frame_id(frame) not in doubles]
    return replace(stack, frames=frames, duplicates=len(doubles))
