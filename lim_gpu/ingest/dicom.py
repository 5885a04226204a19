"""DICOM headers: one file to the frames it holds, or to the reason why it holds none for us. Runs in a child process.

No pixel is decoded; but that the file holds all of them is checked, so that a cut file is found before the work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from lim_gpu.ingest.geometry import normal, orthonormal
from lim_gpu.ingest.header import Header, if_usable, number, numbers, required, text, texts, whole
from lim_gpu.ingest.hounsfield import rescale
from lim_gpu.ingest.opening import open_dicom
from lim_gpu.ingest.part10 import DicomFile
from lim_gpu.ingest.pixels import check_pixels, missing_decoder, pixel_format
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import (
    BrokenInstance,
    Content,
    Counted,
    Found,
    Frame,
    Instance,
    Rescale,
    SeriesId,
    SourceError,
    StoredPixels,
)
from lim_gpu.ingest.splits import SPLITS, Split
from lim_gpu.ingest.syntaxes import name_of
from lim_gpu.store.file import MAX_SIDE, MAX_SLICES

# Modalities whose objects are no images of a stack, whatever pixels they hold (PS3.3 C.7.3.1.1.1).
NOT_IMAGES = """
    ASMT AU DOC ECG EPS FID HD KER KO M3D PLAN PR REG RESP RTDOSE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV
    SEG SMR SR SRF TEXTUREMAP VF
"""
DICOMDIR = "1.2.840.10008.1.3.10"  # class of a media directory
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame children
# A projection or a picture of a screen is no slice, whatever plane it claims. Vendors say so in values 3 and on, as
# words: DOSE_INFO, and neither LOWDOSE nor DOSE_RED; SSD, and not SSDE.
NO_SLICE = re.compile(
    r"(?<![A-Z])("
    "(THIN|THICK|SLAB|AXIAL|MIN|MAX)?MIPS?|(MAX|MIN)(IMUM)?_IP|PROJECTIONS?|VRT|VOLREN|VOLUME.REND(ER(ED|ING)?)?|SSD"
    "|SCREEN|SCREEN.?(SAVE|SHOT|CAPTURE)S?|DOSE.?(INFO|REPORT|SUMMARY|PAGE|RECORD|SHEET)|^DOSE$"
    ")(?![A-Z])"
)
MOSAIC = "mosaic (a volume in one image: split it with dcm2niix)"
Value = TypeVar("Value")
AXIAL = 0.8  # |normal z| from which a plane is axial: as for "oblique" in geometry.py


def read_instance(found: Found, modality: str, assume_hu: bool) -> Content:
    """The frames of a DICOM file.

    `Counted` for what is no input by nature (another modality, a localizer, a projection); `BrokenInstance` for an
    image of a known series that cannot be used; `SourceError` for a file of which not even the series is known.
    """
    try:
        with open_dicom(found.path) as file:
            if file.media_class == DICOMDIR:
                return Counted("DICOMDIR")
            if kind := _not_wanted(file.header, modality):
                return Counted(kind)
            if not text(file.header, "SeriesInstanceUID"):
                raise SourceError("no SeriesInstanceUID", "the file may be cut. Copy it again")
            if not file.syntax:
                raise SourceError("no TransferSyntaxUID")
            return _read_image(file, found, assume_hu)
    except SourceError as error:
        return error
    except OSError as error:
        return SourceError("cannot be read", error.strerror or type(error).__name__)


def lacks_part10_header(path: str) -> bool:
    """Whether a file holds the elements of an object without the header that makes it a DICOM file.

    It is not read all the same: what its transfer syntax is would be a guess.
    """
    silence()
    from pydicom.filereader import dcmread

    try:
        dataset = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
        return len(dataset) == 2
    except Exception:  # whatever pydicom makes of bytes that are anything
        return False


def _not_wanted(header: Header, modality: str) -> str:
    """The kind under which an object of another modality is counted, "" for one that is wanted."""
    found = text(header, "Modality")
    if not found:
        raise SourceError("no Modality", "the file may be cut. Copy it again")
    if not re.fullmatch("[A-Z][A-Z0-9]{1,15}", found):
        raise SourceError("unusable Modality", "not a code")
    wanted = found == modality or (modality == "any" and found not in NOT_IMAGES.split())
    return "" if wanted else found


def _read_image(file: DicomFile, found: Found, assume_hu: bool) -> Content:
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    series = _shared(SeriesId(*("\\".join(texts(file.header, name)) for name in names)))  # a backslash ends no name
    try:
        if kind := _set_apart(file):
            return Counted(kind)
        frames = _check_frames(file)
        scales = _rescales(file, frames, assume_hu)
        instance = _instance(file, found, series, frames, _marks(file, scales))
        return tuple(_frame(file, instance, index, scale) for index, scale in enumerate(scales))
    except RecursionError:
        return BrokenInstance(series, SourceError("damaged header", "sequences are nested too deeply"))
    except SourceError as error:
        return BrokenInstance(series, error)


def _set_apart(file: DicomFile) -> str:
    """The kind of an image that is no slice of a stack, "" for a slice.

    ImageType says LOCALIZER for a scout (PS3.3 C.8.2.1.1.1). Its DERIVED alone says little: archives and converters
    write it on whole axial stacks, also with REFORMATTED. So a derived CT is set apart when it is a projection or a
    screen, or when its plane is not the axial one (a multi-planar reformation: the same voxels once more); a derived
    axial stack is kept as a volume of its own, and marked.
    """
    header = file.header
    image_type = [value.upper() for value in texts(header, "ImageType")]
    if {"LOCALIZER", "SCOUT", "TOPOGRAM"} & set(image_type):
        return "localizer"
    derived = image_type[:1] == ["DERIVED"] or image_type[1:2] == ["SECONDARY"]
    if derived and any(NO_SLICE.search(value) for value in image_type[2:]):
        return "projection or screen"
    if "MOSAIC" in image_type and not file.enhanced:  # enhanced objects keep the word for what they have split
        return MOSAIC
    orientation = numbers(file.group("PlaneOrientationSequence", 0), "ImageOrientationPatient", 6)
    if orientation is None:
        return "secondary capture" if text(header, "SOPClassUID").startswith(SECONDARY_CAPTURE) else ""
    reformed = derived and text(header, "Modality") == "CT" and abs(normal(orientation)[2]) < AXIAL
    return "reformation" if reformed else ""


def _check_frames(file: DicomFile) -> int:
    """The number of frames, after all checks that need no position. Raises `SourceError`."""
    header = file.header
    frames = whole(header, "NumberOfFrames")
    frames = 1 if frames is None else frames
    rows, columns = required(header, "Rows"), required(header, "Columns")
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and 0 < frames <= MAX_SLICES):
        limit = f"1 to {MAX_SLICES} of at most {MAX_SIDE} x {MAX_SIDE}"
        raise SourceError("impossible size", f"{frames} frames of {rows} x {columns} where {limit} are read")
    check_pixels(file, rows, columns, frames)
    if frames > 1 and len(file.header.items("PerFrameFunctionalGroupsSequence")) != frames:
        raise SourceError("no functional groups", f"{frames} frames without their positions. Convert it with dcm2niix")
    return frames


def _rescales(file: DicomFile, frames: int, assume_hu: bool) -> list[Rescale | None]:
    if text(file.header, "Modality") != "CT":
        return [None] * frames
    return [_shared(rescale(file, index, assume_hu)) for index in range(frames)]


def _marks(file: DicomFile, scales: Sequence[Rescale | None]) -> frozenset[str]:
    marks = {"burned_in"} if text(file.header, "BurnedInAnnotation").upper() == "YES" else set()
    return frozenset(marks.union(*(scale.marks for scale in scales if scale)))


def _instance(file: DicomFile, found: Found, series: SeriesId, frames: int, marks: frozenset[str]) -> Instance:
    header = file.header
    how = _shared(pixel_format(file, frames))
    return Instance(
        found=found,
        series=series,
        sop=text(header, "SOPInstanceUID"),
        pixels=StoredPixels(file.pixels.start, file.pixels.length, how),
        eight_bit=how.allocated == 8 and not how.signed and how.modality != "CT",
        derived="DERIVED" in texts(header, "ImageType")[:1],
        syntax=name_of(file.syntax),
        missing_decoder=missing_decoder(file.syntax, how.stored),
        number=if_usable(whole, header, "InstanceNumber"),
        marks=marks,
    )


def _frame(file: DicomFile, instance: Instance, index: int, scale: Rescale | None) -> Frame:
    orientation = numbers(file.group("PlaneOrientationSequence", index), "ImageOrientationPatient", 6)
    if orientation and not orthonormal(orientation):
        raise SourceError("unusable ImageOrientationPatient", "its directions are not perpendicular unit vectors")
    measures = file.group("PixelMeasuresSequence", index)
    spacing = numbers(measures, "PixelSpacing", 2)
    return Frame(
        instance=instance,
        index=index,
        position=numbers(file.group("PlanePositionSequence", index), "ImagePositionPatient", 3),
        orientation=_shared(orientation),
        spacing=_shared(spacing if spacing and min(spacing) > 0 else None),
        thickness=if_usable(number, measures, "SliceThickness"),
        rescale=scale,
        splits=_shared(tuple(_split_value(file, index, split) for split in SPLITS)),
    )


def _split_value(file: DicomFile, index: int, split: Split) -> str:
    groups = (file.group(name, index) for name in split.groups if file.enhanced)
    found = next(filter(None, (texts(group, split.frame_name) for group in groups)), None)
    return "\\".join(found or texts(file.header, split.name))


@lru_cache(maxsize=1024)
def _shared(value: Value) -> Value:
    """One object for equal values: it is pickled, and kept, once for all frames of a series."""
    return value
