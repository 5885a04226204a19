"""One volume from its sources into the store. Runs in a child process, which a damaged stream may take down alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError
from lim_gpu.ingest.failures import SKIPPABLE, SKIPPED, Failure, name_bad_files
from lim_gpu.ingest.geometry import place
from lim_gpu.ingest.nifti import nifti_slices
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import AIR, Decoded, SourceError
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.volume_plan import SliceSource, VolumePlan
from lim_gpu.pictures import decode_picture
from lim_gpu.store.header import VolumeHeader
from lim_gpu.store.private import write_sources
from lim_gpu.store.writer import VolumeWriter

SOON = 4  # files
BELOW_AIR = 0.01  # of the pixels: noise below -1024 HU is less, and spread over values


@dataclass(frozen=True)
class Converted:
    """A volume in the store (no header: it failed), and the sources of slices that are not in it."""

    header: VolumeHeader | None
    digest: str
    failures: list[Failure]


def convert(plan: VolumePlan, settings: Settings, ticks: Path | None) -> Converted:
    """Write the volume, its slices one at a time, and the private list of its sources.

    `ticks` is a file that grows by a byte with every slice, for the progress bar of a parent on this machine. The
    volume fails on a bad slice; with `skip_bad_slices` it goes on without and records the loss. Either way all bad
    slices are found.
    """
    silence()
    plan = plan.unpacked()
    counts: Counter[str] = Counter()
    lowest: Counter[int] = Counter()
    bad: list[tuple[int, SourceError]] = []
    try:
        folder = settings.store / "volumes"
        with VolumeWriter(folder, plan.key, *plan.shape, plan.dtype, settings.compression) as writer:
            for index, decoded in enumerate(_slices(plan, settings)):
                if ticks is not None:
                    _tick(ticks)
                error = decoded if isinstance(decoded, SourceError) else _contradiction(decoded, plan)
                if error is not None:
                    bad.append((index, error))
                elif isinstance(decoded, Decoded) and (settings.skip_bad_slices or not bad):
                    writer.append(decoded.pixels)
                    counts += decoded.counts
                    if plan.unit == "HU":
                        lowest += _lowest(decoded.pixels)
            return _finish(writer, _noted(plan, lowest), settings, counts, bad)
    except SourceError as error:
        return Converted(None, "", [Failure(plan.path, str(error))])


def _lowest(pixels: np.ndarray) -> Counter[int]:
    """How many pixels of a slice hold its lowest value, where that lies below air."""
    lowest = int(pixels.min())
    return Counter({lowest: int(np.count_nonzero(pixels == lowest))} if lowest < AIR else {})


def _noted(plan: VolumePlan, lowest: Counter[int]) -> VolumePlan:
    """The plan with the value below air that many pixels hold as a defect: padding that no tag names."""
    n, rows, columns = plan.shape
    (value, count), *_ = [*lowest.most_common(1), (0, 0)]
    if count <= BELOW_AIR * n * rows * columns:
        return plan
    share = count / (n * rows * columns)
    return replace(plan, defects=plan.defects | {"below_air": {"hu": value, "pixels": count, "share": share}})


def _finish(
    writer: VolumeWriter,
    plan: VolumePlan,
    settings: Settings,
    counts: Counter[str],
    bad: list[tuple[int, SourceError]],
) -> Converted:
    skipping = settings.skip_bad_slices and len(bad) < len(plan.slices)
    lost = [(plan.slices[index].path, error) for index, error in bad]
    failures = name_bad_files(lost, len(plan.files), SKIPPED if skipping else SKIPPABLE)
    if bad and not skipping:
        return Converted(None, "", failures)
    rest = plan.without([(index, error.cause) for index, error in bad]) if bad else plan
    header, z = _header(rest, counts, settings.keep_identifiers)
    write_sources(settings.store, plan.key, [source.row() for source in rest.slices])
    return Converted(header, writer.finish(header, z), failures)


def _contradiction(decoded: Decoded, plan: VolumePlan) -> SourceError | None:
    if decoded.pixels.shape == (plan.rows, plan.columns) and decoded.pixels.dtype == plan.dtype:
        return None
    return SourceError("changed while it was read", "run the command again")


def _tick(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, b".")
    finally:
        os.close(handle)


def _slices(plan: VolumePlan, settings: Settings) -> Iterator[Decoded | SourceError]:
    if plan.nifti is not None:
        yield from nifti_slices(plan.nifti, settings.store / "volumes")
    elif plan.kind == "image":
        yield from map(_picture, _told(plan.slices))
    elif len(plan.files) == len(plan.slices):
        yield from map(partial(_dicom_slice, assume_hu=settings.assume_hu), _told(plan.slices))
    else:
        for path, sources in groupby(plan.slices, key=lambda source: source.path):
            yield from _dicom_frames(path, list(sources), settings.assume_hu)


def _told(sources: Sequence[SliceSource]) -> Iterator[SliceSource]:
    """The sources, while the system is told of files that come soon: a network disk fetches them meanwhile.

    Threads would not do: decoders let no other thread run, and what waits for them took a third more CPU time.
    """
    for number, source in enumerate(sources):
        for soon in sources[number + SOON : number + SOON + 1]:
            _will_be_read(soon.path)
        yield source


def _will_be_read(path: str) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):  # said where it is read
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _picture(source: SliceSource) -> Decoded | SourceError:
    try:
        return Decoded(*decode_picture(source.path))
    except InputError as error:
        return SourceError("damaged picture", str(error))


def _dicom_slice(source: SliceSource, assume_hu: bool) -> Decoded | SourceError:
    (decoded,) = _dicom_frames(source.path, [source], assume_hu)
    return decoded


def _dicom_frames(path: str, sources: list[SliceSource], assume_hu: bool) -> Iterator[Decoded | SourceError]:
    """The wanted frames of one file, which is opened once."""
    from lim_gpu.ingest.part10 import open_dicom, text
    from lim_gpu.ingest.pixels import decode

    done = 0
    try:
        with open_dicom(path) as file:
            if text(file.header, "SOPInstanceUID") != sources[0].sop:
                raise SourceError("changed while it was read", "run the command again")
            for source in sources:
                try:
                    result: Decoded | SourceError = decode(file, source.frame, assume_hu)
                except SourceError as error:
                    result = error
                done += 1
                yield result
    except (SourceError, OSError) as error:
        reason = error if isinstance(error, SourceError) else SourceError("cannot be read", error.strerror or "")
        yield from [reason] * (len(sources) - done)


def _header(plan: VolumePlan, counts: Counter[str], keep_identifiers: bool) -> tuple[VolumeHeader, np.ndarray]:
    placement = place(plan.plane, [s.position for s in plan.slices], [s.thickness for s in plan.slices])
    seen: dict[str, Any] = {kind: counts[kind] for kind in ("colour", "transparent") if counts[kind]}
    header = VolumeHeader(
        key=plan.key,
        patient=plan.patient,
        name=plan.name if keep_identifiers else "",
        source=plan.kind,
        modality=plan.modality,
        shape=plan.shape,
        dtype=plan.dtype,
        unit=plan.unit,
        spacing=placement.spacing,
        affine=placement.affine,
        orientation=placement.orientation,
        photometric=plan.photometric,
        transfer_syntax=plan.transfer_syntax,
        padding=counts["padding"],
        clamped=counts["clamped"],
        defects=plan.defects | (placement.defects if plan.kind != "image" else {}) | seen,
        fingerprint=plan.fingerprint,
    )
    return header, np.array(placement.z, dtype=np.float64)


def pixel_digests(sources: list[SliceSource], assume_hu: bool) -> list[str]:
    """SHA-256 of the decoded pixels of DICOM frames, "" for what cannot be decoded (in a child process)."""
    result = []
    for source in sources:
        decoded = _dicom_slice(source, assume_hu)
        result.append(sha256(decoded.pixels.tobytes()).hexdigest() if isinstance(decoded, Decoded) else "")
    return result
