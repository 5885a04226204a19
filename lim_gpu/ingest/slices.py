"""The slices of a planned volume, decoded one at a time. Runs in a child process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby

from lim_gpu.errors import InputError
from lim_gpu.ingest.nifti import nifti_slices
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import Decoded, SourceError, changed
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.volume_plan import SliceSource, VolumePlan
from lim_gpu.pictures import decode_picture

SOON = 4  # files


def decoded_slices(plan: VolumePlan, settings: Settings) -> Iterator[Decoded | SourceError]:
    """Every slice of a volume in its order, or why it cannot be used. Raises `SourceError` for a NIfTI file."""
    for decoded in _decoded(plan, settings):
        yield decoded if isinstance(decoded, SourceError) else _contradiction(decoded, plan) or decoded


def _contradiction(decoded: Decoded, plan: VolumePlan) -> SourceError | None:
    if decoded.pixels.shape == (plan.rows, plan.columns) and decoded.pixels.dtype == plan.dtype:
        return None
    return changed()


def _decoded(plan: VolumePlan, settings: Settings) -> Iterator[Decoded | SourceError]:
    if plan.nifti is not None:
        yield from nifti_slices(plan.nifti, settings.store / "volumes")
    elif plan.kind == "image":
        yield from map(_picture, _told(plan.slices))
    elif len(plan.files) == len(plan.slices):
        yield from map(_dicom_slice, _told(plan.slices))
    else:
        for _path, sources in groupby(plan.slices, key=lambda source: source.path):
            yield from _dicom_frames(list(sources))


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


def _dicom_slice(source: SliceSource) -> Decoded | SourceError:
    (decoded,) = _dicom_frames([source])
    return decoded


def _dicom_frames(sources: list[SliceSource]) -> Iterator[Decoded | SourceError]:
    """Frames of one file, which is opened once."""
    from lim_gpu.ingest.pixels import decode, open_pixels

    first, done = sources[0], 0
    assert first.pixels is not None
    try:
        with open_pixels(first.found, first.pixels) as pixels:
            for source in sources:
                try:
                    result: Decoded | SourceError = decode(pixels, source.frame, source.rescale)
                except SourceError as error:
                    result = error
                done += 1
                yield result
    except (SourceError, OSError) as error:
        reason = error if isinstance(error, SourceError) else SourceError("cannot be read", error.strerror or "")
        yield from [reason] * (len(sources) - done)


def pixel_digests(sources: list[SliceSource]) -> list[str]:
    """SHA-256 of the decoded pixels of DICOM frames, "" for what cannot be decoded (in a child process)."""
    silence()
    decoded = map(_dicom_slice, sources)
    return [sha256(one.pixels.tobytes()).hexdigest() if isinstance(one, Decoded) else "" for one in decoded]
