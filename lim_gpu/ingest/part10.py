"""A DICOM Part 10 file: its header, and where the pixel data lie."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from lim_gpu.ingest.elements import PIXEL_DATA
from lim_gpu.ingest.header import Header, NoHeader
from lim_gpu.ingest.records import SourceError


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
    syntax: str  # UID of its transfer syntax, "" if it names none
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
        return NoHeader()

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


def pixel_element(stream: BinaryIO, implicit: bool, little: bool) -> PixelElement:
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
