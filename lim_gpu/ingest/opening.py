"""A DICOM file opened: its header by a walk over its bytes where it is plain, else by pydicom. In child processes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

from lim_gpu.ingest.elements import IMPLICIT, walk
from lim_gpu.ingest.header import Header, PlainHeader
from lim_gpu.ingest.part10 import DicomFile, pixel_element
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import SourceError

HEAD = 64 << 10  # bytes in which most headers end


@contextmanager
def open_dicom(path: str) -> Iterator[DicomFile]:
    """Read the header of a DICOM file, without its pixels. Raises `SourceError` for one that cannot be read."""
    silence()
    try:
        with open(path, "rb") as raw:
            yield _read(raw)
    except RecursionError:
        raise SourceError("damaged header", "sequences are nested too deeply") from None


def _read(raw: BinaryIO) -> DicomFile:
    """By a walk where the header is plain, else by pydicom."""
    head = raw.read(HEAD)
    walked = walk(head)
    if walked is None:
        from lim_gpu.ingest.parsed import parse

        return parse(head, raw)
    raw.seek(walked.end)
    pixels = pixel_element(raw, walked.syntax == IMPLICIT, little=True)
    header = PlainHeader(walked.elements, cache(lambda: _parsed(head)))
    return DicomFile(header, walked.syntax, walked.media_class, raw, pixels)


def _parsed(head: bytes) -> Header:
    from lim_gpu.ingest.parsed import parse_stream

    return parse_stream(io.BytesIO(head)).header


def inflated(raw: BinaryIO) -> BinaryIO:
    """What a deflated file holds behind its meta header."""
    from lim_gpu.ingest.parsed import parse_stream

    return parse_stream(raw).stream
