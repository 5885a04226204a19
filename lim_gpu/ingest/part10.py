"""DICOM Part 10 files: the header, its elements as plain values, and where the pixel data lie.

Everything here runs in a child process: `open_dicom` changes pydicom for the whole process.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import SourceError
from lim_gpu.ingest.splits import SPLITS

Value = TypeVar("Value")

DEFLATED_LIMIT = 64 * 2**20  # bytes, inflated: a deflated file of 400 KB can hold 1 GB
FIRST_PIXEL_TAG, PIXEL_DATA = 0x7FE00008, 0x7FE00010
HEAD = 64 << 10  # bytes in which most headers end

# The only elements that are read: no name, date or free text ever enters the program.
KEYWORDS = """
    ImageType SOPClassUID SOPInstanceUID Modality PatientID StudyInstanceUID SeriesInstanceUID InstanceNumber
    SliceThickness ImagePositionPatient ImageOrientationPatient PixelSpacing BurnedInAnnotation
    SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
TAGS = [tag for name in (*KEYWORDS.split(), *(split.name for split in SPLITS)) if (tag := tag_for_keyword(name))]
# Texts that pydicom leaves as they are, by their VR.
PLAIN = {
    "CS": re.compile("[A-Z0-9_ ]*"),
    "UI": re.compile("[0-9.]+"),
    "DS": re.compile(r"-?[0-9]+(\.[0-9]+)?([Ee][-+]?[0-9]+)?"),
    "IS": re.compile("0|-?[1-9][0-9]{0,8}"),
}


class Header:
    """The elements of a data set that are read, each converted once."""

    def __init__(self, dataset: Dataset | None = None) -> None:
        self._dataset = Dataset() if dataset is None else dataset
        self._present = frozenset(int(tag) for tag in self._dataset.keys())  # noqa: SIM118  (iterating converts)
        self._texts: dict[str, list[str]] = {}
        self._items: dict[str, list[Header]] = {}

    def __contains__(self, keyword: str) -> bool:
        return tag_for_keyword(keyword) in self._present

    def texts(self, keyword: str) -> list[str]:
        """All values of an element as text."""
        if keyword not in self._texts:
            self._texts[keyword] = self._read_texts(keyword) if keyword in self else []
        return self._texts[keyword]

    def items(self, keyword: str) -> list[Header]:
        """The items of a sequence."""
        if keyword not in self._items:
            value = self._value(keyword) if keyword in self else None
            self._items[keyword] = [Header(item) for item in value] if isinstance(value, Sequence) else []
        return self._items[keyword]

    def _read_texts(self, keyword: str) -> list[str]:
        plain = _plain_texts(self._dataset.get_item(tag_for_keyword(keyword) or 0))
        if plain is not None:
            return plain
        value = self._value(keyword)
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        return [stripped for v in values if v is not None and (stripped := str(v).strip(" \0"))]

    def _value(self, keyword: str) -> Any:
        try:
            return self._dataset.get(keyword)
        except RecursionError:
            raise
        except Exception:  # pydicom raises many kinds, and their texts quote values
            raise SourceError(f"unreadable {keyword}") from None


def _plain_texts(element: Any) -> list[str] | None:
    """The values of an element, plain ASCII or US, that was not converted yet; None where pydicom has to look at it.

    pydicom's own conversion, of two dozen elements, takes longer than the rest of a file's scan.
    """
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    if element.VR == "US" and len(element.value) == 2:
        return [str(int.from_bytes(element.value, "little" if element.is_little_endian else "big"))]
    if element.VR not in PLAIN or not element.value.isascii():
        return None
    values = [value.strip(" \0") for value in element.value.decode("ascii").split("\\")]
    return [v for v in values if v] if all(PLAIN[element.VR].fullmatch(value) for value in values) else None


@dataclass(frozen=True)
class PixelElement:
    """Where PixelData lie in the stream. `start` is -1 without any; `length` is None for encapsulated data."""

    start: int = -1
    length: int | None = 0
    vr: str = "OW"


@dataclass
class DicomFile:
    """An open DICOM file: its header, and a stream that holds the value of PixelData from `pixels.start` on."""

    header: Header
    syntax: UID
    media_class: str  # MediaStorageSOPClassUID
    stream: BinaryIO
    pixels: PixelElement

    @property
    def enhanced(self) -> bool:
        """Whether the header has functional groups."""
        return "SharedFunctionalGroupsSequence" in self.header or "PerFrameFunctionalGroupsSequence" in self.header

    def group(self, name: str, index: int) -> Header:
        """What holds the elements of functional group `name` for frame `index`.

        In an enhanced object the frame's own group, else the shared one; in any other object the header itself.
        """
        if not self.enhanced:
            return self.header
        frames = self.header.items("PerFrameFunctionalGroupsSequence")
        shared = self.header.items("SharedFunctionalGroupsSequence")
        for item in [*frames[index : index + 1], *shared[:1]]:
            if found := item.items(name):
                return found[0]
        return Header()

    @property
    def size(self) -> int:
        """Bytes in the stream."""
        return self.stream.seek(0, io.SEEK_END)


def fragments(stream: BinaryIO, start: int) -> list[tuple[int, int]]:
    """Position and length of each fragment of encapsulated pixel data, without the offset table (PS3.5 A.4).

    Raises `SourceError` unless all of them and the delimiter are in the stream.
    """
    size, position = stream.seek(0, io.SEEK_END), start
    found: list[tuple[int, int]] = []
    while position + 8 <= size:
        stream.seek(position)
        group, element, length = struct.unpack("<HHL", stream.read(8))
        if (group, element) == (0xFFFE, 0xE0DD):
            return found[1:]
        if (group, element) != (0xFFFE, 0xE000) or length == 0xFFFFFFFF:
            raise SourceError("damaged pixel data", "its fragments are not in order")
        found.append((position + 8, length))
        position += 8 + length
    raise SourceError("truncated", "the compressed pixel data end too early. Copy the file again")


@contextmanager
def open_dicom(path: str) -> Iterator[DicomFile]:
    """Read the header of a DICOM file, without its pixels. Raises `SourceError` for one that cannot be read."""
    silence()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with open(path, "rb") as raw:
            yield _parse(raw)
    except RecursionError:
        raise SourceError("damaged header", "sequences are nested too deeply") from None


def _parse(raw: BinaryIO) -> DicomFile:
    """From the head alone where the pixels begin in it: pydicom asks a file several times an element where it is."""
    head = io.BytesIO(raw.read(HEAD))
    with suppress(SourceError):  # an element may be cut by the end of the head
        file = _parse_stream(head)
        if file.stream is head and file.pixels.start >= 0:
            return replace(file, stream=raw)
    raw.seek(0)
    return _parse_stream(raw)


def _parse_stream(raw: BinaryIO) -> DicomFile:
    try:
        read_preamble(raw, force=False)
        meta = Header(read_dataset(raw, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2))
        syntax = UID(text(meta, "TransferSyntaxUID"))
        stream: BinaryIO = io.BytesIO(_inflate(raw)) if syntax == DeflatedExplicitVRLittleEndian else raw
        little = syntax != ExplicitVRBigEndian
        implicit = syntax == ImplicitVRLittleEndian
        header = read_dataset(stream, implicit, little, stop_when=_at_pixels, specific_tags=[*TAGS])
        pixels = _pixel_element(stream, bool(header.original_encoding[0]), little)
    except (SourceError, RecursionError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds on damaged headers, and their texts quote values
        raise SourceError("damaged header", f"{type(error).__name__} while reading it") from None
    return DicomFile(Header(header), syntax, text(meta, "MediaStorageSOPClassUID"), stream, pixels)


def inflated(raw: BinaryIO) -> BinaryIO:
    """What a deflated file holds behind its meta header."""
    return _parse_stream(raw).stream


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return int.__ge__(tag, FIRST_PIXEL_TAG)  # BaseTag's own >= takes longer than the rest


def _inflate(raw: BinaryIO) -> bytes:
    """Inflate what follows the meta header, which itself is never deflated (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(raw.read(), DEFLATED_LIMIT)
    if inflater.unconsumed_tail:
        limit = f"more than {DEFLATED_LIMIT >> 20} MiB inflated. Store it uncompressed"
        raise SourceError("deflated data too large", limit)
    if not inflater.eof:
        raise SourceError("truncated", "the deflated data end too early. Copy the file again")
    return data


def _pixel_element(stream: BinaryIO, implicit: bool, little: bool) -> PixelElement:
    """Find PixelData, at whose tag `stream` stands if the file has them."""
    order = "<" if little else ">"
    head = stream.read(8)
    if len(head) < 8 or struct.unpack(order + "HH", head[:4]) != (PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF):
        return PixelElement()
    vr = "OW" if implicit else head[4:6].decode("latin-1")
    if vr not in ("OB", "OW", "UN"):
        raise SourceError("damaged header", "PixelData has a wrong VR")
    field = head[4:] if implicit else stream.read(4)
    if len(field) < 4:
        return PixelElement()
    (length,) = struct.unpack(order + "L", field)
    return PixelElement(stream.tell(), None if length == 0xFFFFFFFF else length, vr)


def texts(header: Header, keyword: str) -> list[str]:
    """All values of an element as text; none when it is absent or empty."""
    return header.texts(keyword)


def text(header: Header, keyword: str) -> str:
    """The first value of an element as text, "" when there is none."""
    return next(iter(texts(header, keyword)), "")


def numbers(header: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None when the element is absent or empty."""
    if not (values := texts(header, keyword)):
        return None
    if len(values) != count:
        raise SourceError(f"unusable {keyword}", f"{len(values)} values where {count} belong")
    try:
        result = tuple(float(v) for v in values)
    except ValueError:
        raise SourceError(f"unusable {keyword}", "not a number") from None
    if not all(math.isfinite(v) for v in result):
        raise SourceError(f"unusable {keyword}", "not a finite number")
    return result


def number(header: Header, keyword: str) -> float | None:
    """One finite number, or None."""
    values = numbers(header, keyword, 1)
    return values[0] if values else None


def whole(header: Header, keyword: str) -> int | None:
    """One integer, or None."""
    value = number(header, keyword)
    if value is not None and value != int(value):
        raise SourceError(f"unusable {keyword}", "not a whole number")
    return None if value is None else int(value)


def if_usable(read: Callable[[Header, str], Value | None], header: Header, keyword: str) -> Value | None:
    """An element that only describes: None where it is missing or wrong."""
    try:
        return read(header, keyword)
    except SourceError:
        return None


def required(header: Header, keyword: str) -> int:
    """One integer that must be there."""
    if (value := whole(header, keyword)) is None:
        raise SourceError(f"no {keyword}")
    return value
