"""The elements of a DICOM header that are read, and a walk over its bytes to where they stand.

The walk takes a tenth of pydicom's time, and pydicom 0.4 s to import; so pydicom reads what is unusual, and the walk
the plain rest, which is most. It says nothing of a header that is not plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct, error
from typing import NamedTuple

# The only elements that are read, with their VR: no name, date or free text ever enters the program. "": it varies.
ELEMENTS = {
    "ImageType": (0x0008_0008, "CS"),
    "SOPClassUID": (0x0008_0016, "UI"),
    "SOPInstanceUID": (0x0008_0018, "UI"),
    "Modality": (0x0008_0060, "CS"),
    "PatientID": (0x0010_0020, "LO"),
    "SliceThickness": (0x0018_0050, "DS"),
    "EchoNumbers": (0x0018_0086, "IS"),
    "TriggerTime": (0x0018_1060, "DS"),
    "ConvolutionKernel": (0x0018_1210, "SH"),
    "DiffusionBValue": (0x0018_9087, "FD"),
    "StudyInstanceUID": (0x0020_000D, "UI"),
    "SeriesInstanceUID": (0x0020_000E, "UI"),
    "AcquisitionNumber": (0x0020_0012, "IS"),
    "InstanceNumber": (0x0020_0013, "IS"),
    "ImagePositionPatient": (0x0020_0032, "DS"),
    "ImageOrientationPatient": (0x0020_0037, "DS"),
    "TemporalPositionIdentifier": (0x0020_0100, "IS"),
    "StackID": (0x0020_9056, "SH"),
    "SamplesPerPixel": (0x0028_0002, "US"),
    "PhotometricInterpretation": (0x0028_0004, "CS"),
    "NumberOfFrames": (0x0028_0008, "IS"),
    "Rows": (0x0028_0010, "US"),
    "Columns": (0x0028_0011, "US"),
    "PixelSpacing": (0x0028_0030, "DS"),
    "BitsAllocated": (0x0028_0100, "US"),
    "BitsStored": (0x0028_0101, "US"),
    "HighBit": (0x0028_0102, "US"),
    "PixelRepresentation": (0x0028_0103, "US"),
    "PixelPaddingValue": (0x0028_0120, ""),
    "PixelPaddingRangeLimit": (0x0028_0121, ""),
    "BurnedInAnnotation": (0x0028_0301, "CS"),
    "RescaleIntercept": (0x0028_1052, "DS"),
    "RescaleSlope": (0x0028_1053, "DS"),
    "RescaleType": (0x0028_1054, "LO"),
    "ModalityLUTSequence": (0x0028_3000, "SQ"),
    "SharedFunctionalGroupsSequence": (0x5200_9229, "SQ"),
    "PerFrameFunctionalGroupsSequence": (0x5200_9230, "SQ"),
}
TAGS = frozenset(tag for tag, _vr in ELEMENTS.values())
VRS = dict(ELEMENTS.values())
MEDIA_CLASS, SYNTAX = 0x0002_0002, 0x0002_0010
META, AFTER_META, FIRST_PIXEL_TAG, PIXEL_DATA = 0x0002, 0x0003_0000, 0x7FE0_0008, 0x7FE0_0010
SEQUENCE_END, ITEM, ITEM_END = 0xFFFE_E0DD, 0xFFFE_E000, 0xFFFE_E00D
UNDEFINED = 0xFFFF_FFFF  # a length
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # VRs whose lengths have 32 bits (PS3.5 7.1.2)
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
EXPLICIT_HEAD, IMPLICIT_HEAD = Struct("<HH2sH").unpack_from, Struct("<HHL").unpack_from
LENGTH_FIELD = Struct("<L").unpack_from
ASCII = re.compile(r"[ -\[\]-}]*")  # what means the same in every character set: neither a backslash nor a tilde
# Texts that are given as they are.
PLAIN = {
    "CS": re.compile("[A-Z0-9_ ]*"),
    "UI": re.compile("[0-9.]+"),
    "DS": re.compile(r"-?[0-9]+(\.[0-9]+)?([Ee][-+]?[0-9]+)?"),
    "IS": re.compile("0|-?[1-9][0-9]{0,8}"),
    "LO": ASCII,
    "SH": ASCII,
}


class Element(NamedTuple):
    """An element as it stands: its VR, "" where it is not known here; its little-endian bytes, None of a sequence."""

    vr: str
    value: bytes | None


class Walked(NamedTuple):
    """A plain header: its transfer syntax, the class that its media header gives, its elements by tag, and its end."""

    syntax: str
    media_class: str
    elements: Mapping[int, Element]
    end: int  # where the element of the pixels begins


class _UnusualError(Exception):
    """What is left to pydicom."""


def walk(head: bytes) -> Walked | None:
    """The header that begins a file; None where it is not plain, has no pixels, or does not end within `head`.

    Raises RecursionError for sequences that are nested too deeply.
    """
    if head[128:132] != b"DICM":
        return None
    try:
        if _tag(head, 132) >> 16 != META:
            return None
        meta, start = _explicit(head, 132, AFTER_META, frozenset({MEDIA_CLASS, SYNTAX}))
        syntax, media_class = _uid(meta, SYNTAX), _uid(meta, MEDIA_CLASS)
        if not syntax or syntax in (BIG_ENDIAN, DEFLATED):
            return None
        read = _implicit if syntax == IMPLICIT else _explicit
        elements, end = read(head, start, FIRST_PIXEL_TAG, TAGS)
        return Walked(syntax, media_class, elements, end) if _tag(head, end) == PIXEL_DATA else None
    except (error, _UnusualError):
        return None


def _uid(meta: Mapping[int, Element], tag: int) -> str:
    values = plain_texts(*meta[tag]) if tag in meta else ()
    if values is None:
        raise _UnusualError
    return next(iter(values), "")


def _tag(head: bytes, position: int) -> int:
    group, number, _length = IMPLICIT_HEAD(head, position)
    return int(group << 16 | number)


def _explicit(head: bytes, position: int, stop: int, wanted: frozenset[int]) -> tuple[dict[int, Element], int]:
    """The wanted elements from `position` on, in ascending order, and where the first tag of `stop` or above stands."""
    found: dict[int, Element] = {}
    last = -1
    while True:
        group, number, vr, length = EXPLICIT_HEAD(head, position)
        tag = group << 16 | number
        if tag >= stop:
            return found, position
        if tag <= last:
            raise _UnusualError
        last, start = tag, position + 8
        if vr in LONG:
            (length,), start = LENGTH_FIELD(head, start), position + 12
        elif vr not in SHORT:
            raise _UnusualError
        position = start + length if length != UNDEFINED else _sequence_end(head, start, vr)
        if tag in wanted:
            found[tag] = Element(vr.decode("ascii"), None if vr == b"SQ" else head[start:position])


def _sequence_end(head: bytes, position: int, vr: bytes) -> int:
    """Where a sequence of no declared length ends (PS3.5 7.5.2)."""
    if vr != b"SQ":
        raise _UnusualError
    while (tag := _tag(head, position)) == ITEM:
        (length,), position = LENGTH_FIELD(head, position + 4), position + 8
        position = position + length if length != UNDEFINED else _item_end(head, position)
    if tag != SEQUENCE_END:
        raise _UnusualError
    return position + 8


def _item_end(head: bytes, position: int) -> int:
    _found, end = _explicit(head, position, ITEM_END, frozenset())
    if _tag(head, end) != ITEM_END:
        raise _UnusualError
    return end + 8


def _implicit(head: bytes, position: int, stop: int, wanted: frozenset[int]) -> tuple[dict[int, Element], int]:
    """As `_explicit`; what has no declared length is left to pydicom, whose dictionary knows what it is."""
    if head[position + 4 : position + 6].isalpha():  # a VR, against what the file says of itself
        raise _UnusualError
    found: dict[int, Element] = {}
    last = -1
    while True:
        group, number, length = IMPLICIT_HEAD(head, position)
        tag = group << 16 | number
        if tag >= stop:
            return found, position
        if tag <= last or length == UNDEFINED:
            raise _UnusualError
        last, start, position = tag, position + 8, position + 8 + length
        if tag in wanted:
            found[tag] = Element(VRS[tag], None if VRS[tag] == "SQ" else head[start:position])


@lru_cache(maxsize=4096)
def plain_texts(vr: str, value: bytes | None) -> tuple[str, ...] | None:
    """The values of an element in plain ASCII, or of one US or SS; None where pydicom has to look at it."""
    if value is None or not (vr in PLAIN or vr in ("US", "SS")):
        return None
    if vr in ("US", "SS"):
        return (str(int.from_bytes(value, "little", signed=vr == "SS")),) if len(value) == 2 else None
    if not value.isascii():
        return None
    values = [one.strip(" \0") for one in value.decode("ascii").split("\\")] if value else []
    return tuple(filter(None, values)) if all(PLAIN[vr].fullmatch(one) for one in values) else None
