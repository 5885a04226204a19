"""DICOM frames to stacks, told apart by series and geometry and ordered along the normal; a stack to a volume."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lim_gpu.ingest.geometry import SAME_PLACE, Plane, normal
from lim_gpu.ingest.records import BrokenInstance, Found, Frame, SourceError
from lim_gpu.ingest.volume_plan import SliceSource, VolumePlan, skipped_slices
from lim_gpu.store.file import MAX_SLICES

SAME_ORIENTATION = 1e-3  # of direction cosines
SAME_SPACING = 1e-3  # relative

FrameId = tuple[str, int]  # path, index


@dataclass
class Stack:
    """Frames of one series and geometry, in order.

    duplicates  dropped because the same pixels lay at the same place
    copies      dropped before, of each frame of the series, because they were the same instance
    split       what tells it from another stack at the same positions
    apart       names of the elements that told it from a stack that was woven into it
    mixed       names of those of which it holds several values, between each other
    """

    frames: list[Frame]
    duplicates: int = 0
    copies: Counter[FrameId] = field(default_factory=Counter)
    split: str = ""
    apart: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    lost: Counter[str] = field(default_factory=Counter)  # causes of slices of the series that cannot be used


def frame_id(frame: Frame) -> FrameId:
    """What tells a frame from all others."""
    return frame.instance.found.path, frame.index


def stacks(frames: Iterable[Frame], copies: Counter[FrameId]) -> tuple[list[Stack], list[tuple[Found, BrokenInstance]]]:
    """Group frames by series and geometry, and order each group. `copies`: how many of each were dropped.

    Frames without a position in a series where others have one are returned as broken: their place is not known.
    """
    families: dict[tuple[Any, ...], list[Frame]] = {}
    for frame in frames:
        i, how = frame.instance, frame.instance.pixels.format
        shape = (how.rows, how.columns, i.eight_bit, i.derived, how.photometric, how.modality)
        families.setdefault((i.series, *shape), []).append(frame)
    result, broken = [], []
    for family in families.values():
        placed = [f for f in family if _placed(f)]
        if placed and len(placed) < len(family):
            error = SourceError("no ImagePositionPatient", "other slices of the series have one")
            lost = {f.instance.found.path: f.instance for f in family if not _placed(f)}
            broken += [(i.found, BrokenInstance(i.series, error)) for i in lost.values()]
        result += [Stack(_ordered(group), copies=copies) for group in _by_geometry(placed or family)]
    return result, broken


def _by_geometry(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Frames of equal orientation and pixel spacing, within the tolerances, against the first frame of each group."""
    groups: list[list[Frame]] = []
    known: dict[Any, list[Frame]] = {}
    for frame in frames:
        group = known.get((frame.orientation, frame.spacing))
        if group is None:
            group = next((g for g in groups if _same_geometry(g[0], frame)), None)
            if group is None:
                groups.append(group := [])
            known[frame.orientation, frame.spacing] = group
        group.append(frame)
    return groups


def _same_geometry(a: Frame, b: Frame) -> bool:
    if (a.spacing is None) != (b.spacing is None):
        return False
    spacing = zip(a.spacing or (), b.spacing or (), strict=True)
    if any(abs(x - y) > SAME_SPACING * max(x, y) for x, y in spacing):
        return False
    if not (a.position and b.position and a.orientation and b.orientation):
        return True  # without positions there is nothing else to tell them apart
    return all(abs(x - y) <= SAME_ORIENTATION for x, y in zip(a.orientation, b.orientation, strict=True))


def _ordered(frames: list[Frame]) -> list[Frame]:
    """Ascending along the normal; frames without a position in order of InstanceNumber and frame."""
    heights = places(frames)
    if _placed(frames[0]):
        ranks = np.lexsort(([f.index for f in frames], [f.instance.found.order for f in frames], heights))
        return [frames[i] for i in ranks]
    return [
        f for _, f in sorted(zip(heights, frames, strict=True), key=lambda one: (one[0], one[1].instance.found.order))
    ]


def places(frames: Sequence[Frame]) -> list[float]:
    """Where frames of one stack lie: mm along the normal of the first, since directions may differ by rounding.

    Frames without a position by their InstanceNumber and frame.
    """
    if not _placed(frames[0]):
        return [float((f.instance.number or 0) * MAX_SLICES + f.index) for f in frames]
    unit = np.array(normal(frames[0].orientation or ()))
    return (np.array([f.position for f in frames]) @ unit).tolist()


def _placed(frame: Frame) -> bool:
    return bool(frame.position and frame.orientation)


def collisions(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The groups of two or more frames that share one place in an ordered stack."""
    groups: list[list[Frame]] = []
    place = None
    for here, frame in sorted(zip(places(frames), frames, strict=True), key=lambda one: one[0]):
        if place is None or here - place > SAME_PLACE:
            groups.append([])
            place = here
        groups[-1].append(frame)
    return [group for group in groups if len(group) > 1]


def dicom_plan(stack: Stack) -> VolumePlan:
    """The plan of a resolved stack. The volume's identity is its series and geometry, wherever the files lie."""
    first = stack.frames[0]
    instance, series, how = first.instance, first.instance.series, first.instance.pixels.format
    files = {f.instance.found.path: f.instance.found for f in stack.frames}
    order = min(f.order for f in files.values())
    geometry = [[round(v, 2) + 0.0 for v in first.orientation or ()], [round(v, 3) for v in first.spacing or ()]]
    look = (how.rows, how.columns, instance.eight_bit, instance.derived, how.photometric)
    patient = series.patient or series.study or series.series
    return VolumePlan(
        kind="dicom",
        identity="\0".join([series.patient, series.study, series.series, repr(look), repr(geometry), stack.split]),
        patient_identity=patient,
        name=f"{series.patient}/{series.series}",
        path=next(iter(files)) if len(files) == 1 else os.path.commonpath(files),
        order=(order, first.index),
        files=tuple(sorted(files.values(), key=lambda f: f.order)),
        slices=tuple(map(SliceSource.of, stack.frames)),
        rows=how.rows,
        columns=how.columns,
        dtype="uint8" if instance.eight_bit else "int16",
        unit="HU" if how.modality == "CT" else ("8-bit" if instance.eight_bit else "stored"),
        plane=Plane(first.orientation, first.spacing, first.thickness),
        modality=how.modality,
        photometric=how.photometric,
        transfer_syntax=", ".join(sorted({f.instance.syntax for f in stack.frames})),
        defects=_defects(stack),
    )


def _defects(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = {mark: True for f in stack.frames for mark in f.instance.marks}
    if stack.frames[0].instance.derived:
        found["derived"] = True
    if duplicates := stack.duplicates + sum(stack.copies[frame_id(f)] for f in stack.frames):
        found["duplicates"] = duplicates
    if stack.apart:
        found["set_apart"] = list(stack.apart)
    if stack.mixed:
        found["mixed"] = list(stack.mixed)
    if stack.lost:
        found["skipped_slices"] = skipped_slices([], stack.lost.elements())
    return found
