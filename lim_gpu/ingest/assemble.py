"""Scanned files to planned volumes: broken series, missing decoders and colliding slices are settled here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lim_gpu.ingest.failures import SKIPPABLE, SKIPPED, Failure, name_bad_files
from lim_gpu.ingest.nifti import nifti_plan
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

# The digests of the pixels of frames; decoding them is the caller's business.
Digests = Callable[[Sequence[Frame]], Mapping[FrameId, str]]


@dataclass
class Planned:
    """The volumes to make, what was counted, and what failed so far."""

    volumes: list[VolumePlan] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, found: Found, error: object) -> None:
        """Note a failure."""
        self.failures.append(Failure(found.path, str(error)))


def plan_volumes(scanned: Iterable[Scanned], settings: Settings, digests: Digests) -> Planned:
    """Plan the volumes of all scanned files."""
    planned = Planned()
    frames: list[Frame] = []
    pictures: list[Picture] = []
    broken: dict[SeriesId, list[tuple[Found, SourceError]]] = defaultdict(list)
    for file in scanned:
        content = file.content
        if isinstance(content, Counted):
            planned.counted[content.kind] += 1
        elif isinstance(content, SourceError):
            planned.fail(file.found, content)
        elif isinstance(content, BrokenInstance):
            broken[content.series].append((file.found, content.error))
        elif isinstance(content, NiftiVolume):
            _add_nifti(planned, content, settings)
        elif isinstance(content, Picture):
            pictures.append(content)
        else:
            frames += content
    _add_series(planned, frames, broken, settings.skip_bad_slices, digests)
    plans, failed = picture_plans(pictures, settings.patient_pattern, settings.assume_hu)
    planned.volumes += plans
    for found, error in failed:
        planned.fail(found, error)
    return planned


def _add_nifti(planned: Planned, volume: NiftiVolume, settings: Settings) -> None:
    try:
        plan = nifti_plan(volume, settings.modality, settings.patient_pattern)
        plan.check_size()
        planned.volumes.append(plan)
    except SourceError as error:
        planned.fail(volume.found, error)


def _add_series(
    planned: Planned,
    frames: list[Frame],
    broken: dict[SeriesId, list[tuple[Found, SourceError]]],
    skip_bad_slices: bool,
    digests: Digests,
) -> None:
    undecodable = _missing_decoders(planned, frames)
    failing = set() if skip_bad_slices else set(undecodable)
    frames = [f for f in frames if not (f.instance.missing_decoder or f.instance.series in failing)]
    doubtful = [frame for group in same_instances(frames) for frame in group]
    copies = without_copies(frames, digests(doubtful) if doubtful else {})
    groups, unplaced = stacks(copies.frames, copies.dropped)
    for stack in groups:
        stack.lost.update({"no decoder": count} if (count := undecodable[stack.frames[0].instance.series]) else {})
    for found, instance in unplaced:
        broken[instance.series].append((found, instance.error))
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
                planned.volumes.append(plan)
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


def _missing_decoders(planned: Planned, frames: Iterable[Frame]) -> Counter[SeriesId]:
    """Report each transfer syntax that nothing decodes here once; returns how many files of each series use them."""
    files: dict[tuple[str, str], dict[str, Frame]] = defaultdict(dict)
    for frame in frames:
        if frame.instance.missing_decoder:
            users = files[frame.instance.syntax, frame.instance.missing_decoder]
            users.setdefault(frame.instance.found.path, frame)
    for (syntax, remedy), users in files.items():
        first = next(iter(users.values())).instance.found
        planned.fail(first, f"no decoder for {syntax} ({len(users)} files). {remedy}")
    return Counter(frame.instance.series for users in files.values() for frame in users.values())


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
