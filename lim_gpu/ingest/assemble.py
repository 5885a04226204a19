"""Scanned files to planned volumes: broken series, missing decoders and colliding slices are settled here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lim_gpu.ingest.failures import SKIPPABLE, SKIPPED, Failure, name_bad_files
from lim_gpu.ingest.nifti import nifti_plan
from lim_gpu.ingest.packed import PackedGroups, PackedList
from lim_gpu.ingest.pictures import picture_plans
from lim_gpu.ingest.records import (
    BrokenInstance,
    Counted,
    Found,
    Frame,
    NiftiVolume,
    Picture,
    Scanned,
    SeriesId,
    SourceError,
)
from lim_gpu.ingest.resolve import CollisionError, resolve, same_instances, without_copies
from lim_gpu.ingest.series import FrameId, Stack, collisions, dicom_plan, frame_id, stacks
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.volume_plan import VolumePlan

GROUP = 1024  # frames that are planned, or wait to be packed, at once
# The digests of the pixels of frames; decoding them is the caller's business.
Digests = Callable[[Sequence[Frame]], Mapping[FrameId, str]]


@dataclass
class Planned:
    """The volumes to make, what was counted, with a path of each kind, and what failed so far."""

    volumes: list[VolumePlan] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, found: Found, error: object) -> None:
        """Note a failure."""
        self.failures.append(Failure(found.path, str(error)))


def plan_volumes(scanned: Iterable[Scanned], settings: Settings, digests: Digests) -> Planned:
    """Plan the volumes of all scanned files."""
    planned = Planned()
    frames = _Frames()
    pictures: PackedList[Picture] = PackedList(GROUP)
    broken: dict[SeriesId, list[tuple[Found, SourceError]]] = defaultdict(list)
    for file in scanned:
        content = file.content
        if isinstance(content, Counted):
            planned.counted[content.kind] += 1
            planned.examples.setdefault(content.kind, file.found.path)
        elif isinstance(content, SourceError):
            planned.fail(file.found, content)
        elif isinstance(content, BrokenInstance):
            broken[content.series].append((file.found, content.error))
        elif isinstance(content, NiftiVolume):
            _add_nifti(planned, content, settings)
        elif isinstance(content, Picture):
            pictures.append(content)
        else:
            frames.add(content)
    frames.name_missing_decoders(planned)
    for some in frames.in_groups([series for series in broken if series not in frames.packed]):
        own = {series: broken[series] for series in some if series in broken}
        _add_series(planned, some, own, frames.undecodable, settings.skip_bad_slices, digests)
    plans, failed = picture_plans(pictures, settings.patient_pattern, settings.assume_hu)
    planned.volumes += plans
    for found, error in failed:
        planned.fail(found, error)
    return planned


def _add_nifti(planned: Planned, volume: NiftiVolume, settings: Settings) -> None:
    try:
        plan = nifti_plan(volume, settings.modality, settings.patient_pattern)
        plan.check_size()
        planned.volumes.append(plan.packed())
    except SourceError as error:
        planned.fail(volume.found, error)


class _Frames:
    """Frames by their series, packed while they wait; those that nothing decodes here are only counted.

    undecodable: files of each series that are.
    """

    def __init__(self) -> None:
        self.packed: PackedGroups[SeriesId, Frame] = PackedGroups(GROUP)
        self.undecodable: Counter[SeriesId] = Counter()
        self._missing: dict[tuple[str, str], tuple[Found, Counter[str]]] = {}

    def add(self, frames: Sequence[Frame]) -> None:
        """Those of a file."""
        first = frames[0].instance
        self.packed.extend(first.series, () if first.missing_decoder else frames)
        if first.missing_decoder:
            self.undecodable[first.series] += 1
            _, users = self._missing.setdefault((first.syntax, first.missing_decoder), (first.found, Counter()))
            users["files"] += 1

    def name_missing_decoders(self, planned: Planned) -> None:
        """Report each transfer syntax that nothing decodes here once."""
        for (syntax, remedy), (first, users) in self._missing.items():
            planned.fail(first, f"no decoder for {syntax} ({users['files']} files). {remedy}")

    def in_groups(self, others: Sequence[SeriesId]) -> Iterator[dict[SeriesId, list[Frame]]]:
        """Whole series, as many as have GROUP frames together; `others` have none. Lets go of what was given."""
        some: dict[SeriesId, list[Frame]] = {}
        for series, own in self.packed.let_go():
            some[series] = own
            if sum(map(len, some.values())) >= GROUP:
                yield some
                some = {}
        yield some | {series: [] for series in others}


def _add_series(
    planned: Planned,
    some: Mapping[SeriesId, list[Frame]],
    broken: dict[SeriesId, list[tuple[Found, SourceError]]],
    undecodable: Counter[SeriesId],
    skip_bad_slices: bool,
    digests: Digests,
) -> None:
    failing = set() if skip_bad_slices else set(undecodable)
    frames = [frame for series, own in some.items() if series not in failing for frame in own]
    doubtful = [frame for group in same_instances(frames) for frame in group]
    copies = without_copies(frames, digests(doubtful) if doubtful else {})
    groups, unplaced = stacks(copies.frames, copies.dropped)
    for stack in groups:
        stack.lost.update({"no decoder": count} if (count := undecodable[stack.frames[0].instance.series]) else {})
    for found, instance in unplaced:
        broken.setdefault(instance.series, []).append((found, instance.error))
    bad = _broken_series(planned, broken, groups, skip_bad_slices)
    groups = [stack for stack in groups if stack.frames[0].instance.series not in bad]
    colliding = [frame for stack in groups for group in collisions(stack.frames) for frame in group]
    known = digests(colliding) if colliding else {}
    for stack in groups:
        first = min((f.instance.found for f in stack.frames), key=lambda found: found.order)
        try:
            for part in _resolved(planned, stack, known, skip_bad_slices):
                plan = dicom_plan(part)
                plan.check_size()
                planned.volumes.append(plan.packed())
        except CollisionError as error:
            remedy = SKIPPABLE if error.few else ""
            planned.fail(error.first.instance.found, f"{error} ({len(stack.frames)} slices{remedy})")
        except SourceError as error:
            planned.fail(first, f"{error} ({len(stack.frames)} slices)")


def _resolved(planned: Planned, stack: Stack, digests: Mapping[FrameId, str], skip_bad_slices: bool) -> list[Stack]:
    """`resolve`; with `skip_bad_slices` a few slices at places that are taken cost themselves alone."""
    try:
        return resolve(stack, digests)
    except CollisionError as error:
        if not (skip_bad_slices and error.few):
            raise
        bad = [(frame.instance.found.path, error) for frame in error.repeated]
        planned.failures += name_bad_files(bad, len(stack.frames), SKIPPED)
        stack.lost.update([error.cause] * len(bad))
        gone = {frame_id(frame) for frame in error.repeated}
        return resolve(replace(stack, frames=[f for f in stack.frames if frame_id(f) not in gone]), digests)


def _broken_series(
    planned: Planned,
    broken: Mapping[SeriesId, list[tuple[Found, SourceError]]],
    groups: Sequence[Stack],
    skip_bad_slices: bool,
) -> set[SeriesId]:
    """Report the bad files of series; returns the series that fail.

    With `skip_bad_slices` their stacks go on and know what they lost. To which stack of a series a bad file belongs may
    be unknown, so all of them say so.
    """
    failing = set()
    for series, files in broken.items():
        own = [stack for stack in groups if stack.frames[0].instance.series == series]
        total = len(files) + len({f.instance.found.path for stack in own for f in stack.frames})
        if not (skip_bad_slices and own):
            failing.add(series)
        bad = [(found.path, error) for found, error in files]
        planned.failures += name_bad_files(bad, total, SKIPPED if skip_bad_slices else SKIPPABLE)
        for stack in own:
            stack.lost.update(error.cause for _, error in files)
    return failing
