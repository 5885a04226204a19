"""A DICOM header as pydicom reads it: whatever is not plain (`lim_gpu.ingest.elements`). In child processes alone.

Importing this changes pydicom for the whole process.
"""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from lim_gpu.ingest.elements import BIG_ENDIAN, DEFLATED, FIRST_PIXEL_TAG, IMPLICIT, META, TAGS, plain_texts
from lim_gpu.ingest.header import Header, text
from lim_gpu.ingest.part10 import DicomFile, pixel_element
from lim_gpu.ingest.records import SourceError

DEFLATED_LIMIT = 64 * 2**20  # bytes, inflated: a deflated file of 400 KB can hold 1 GB

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class ParsedHeader:
    """The elements of a data set of pydicom, each converted once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._present = frozenset(int(tag) for tag in dataset.keys())  # noqa: SIM118  (iterating converts)
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
            self._items[keyword] = [ParsedHeader(item) for item in value] if isinstance(value, Sequence) else []
        return self._items[keyword]

    def _read_texts(self, keyword: str) -> list[str]:
        plain = _plain(self._dataset.get_item(tag_for_keyword(keyword) or 0))
        if plain is not None:
            return list(plain)
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


def _plain(element: Any) -> tuple[str, ...] | None:
    """The values of a plain element that pydicom has not converted: that takes it longer than to find them."""
    raw = isinstance(element, RawDataElement) and isinstance(element.value, bytes) and element.is_little_endian
    return plain_texts(element.VR or "", element.value) if raw else None


def parse(head: bytes, raw: BinaryIO) -> DicomFile:
    """A file from its head alone where the pixels begin in it: pydicom asks `raw` several times an element where it is.

    Raises `SourceError` for one that cannot be read.
    """
    stream = io.BytesIO(head)
    with suppress(SourceError):  # an element may be cut by the end of the head
        file = parse_stream(stream)
        if file.stream is stream and file.pixels.start >= 0:
            return replace(file, stream=raw)
    raw.seek(0)
    return parse_stream(raw)


def parse_stream(raw: BinaryIO) -> DicomFile:
    """A file from its beginning. Raises `SourceError` for one that cannot be read."""
    try:
        read_preamble(raw, force=False)
        meta = ParsedHeader(read_dataset(raw, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != META))
        syntax = text(meta, "TransferSyntaxUID")
        stream: BinaryIO = io.BytesIO(_inflate(raw)) if syntax == DEFLATED else raw
        little, implicit = syntax != BIG_ENDIAN, syntax == IMPLICIT
        header = read_dataset(stream, implicit, little, stop_when=_at_pixels, specific_tags=[*TAGS])
        pixels = pixel_element(stream, bool(header.original_encoding[0]), little)
    except (SourceError, RecursionError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds on damaged headers, and their texts quote values
        raise SourceError("damaged header", f"{type(error).__name__} while reading it") from None
    return DicomFile(ParsedHeader(header), syntax, text(meta, "MediaStorageSOPClassUID"), stream, pixels)


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
