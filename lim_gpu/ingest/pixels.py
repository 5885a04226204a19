"""DICOM pixels: whether the file holds all of them, which plugin decodes them, and what is stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from lim_gpu.ingest.elements import DEFLATED
from lim_gpu.ingest.header import required, text, whole
from lim_gpu.ingest.hounsfield import Ends, ends_of, hounsfield, is_padding, padding_ranges
from lim_gpu.ingest.opening import inflated
from lim_gpu.ingest.part10 import DicomFile, fragments
from lim_gpu.ingest.records import (
    Decoded,
    Found,
    PixelFormat,
    Rescale,
    SourceError,
    StoredPixels,
    changed,
    to_int16,
)
from lim_gpu.ingest.syntaxes import COMPRESSED, LITTLE, NATIVE, name_of, plugins

OVERSHOOT = 1 / 8  # of the range of values: the ringing of a wavelet at an edge stays below
COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


def missing_decoder(syntax: str, bits_stored: int) -> str:
    """How to install what decodes `syntax`, "" where it is here. Raises `SourceError` for one that nothing decodes."""
    if syntax not in NATIVE and syntax not in COMPRESSED:
        raise SourceError("unsupported transfer syntax", f"{name_of(syntax)}. Convert it to an uncompressed one")
    return "" if plugins(syntax, bits_stored) else COMPRESSED[syntax].remedy


def check_pixels(file: DicomFile, rows: int, columns: int, frames: int) -> None:
    """Raise `SourceError` unless the pixels are grey integers and the file holds all of them."""
    header = file.header
    photometric = text(header, "PhotometricInterpretation")
    if not photometric:
        raise SourceError("no PhotometricInterpretation")
    if required(header, "SamplesPerPixel") != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SourceError(
            "not a grey image", photometric if photometric in COLOUR else "unknown PhotometricInterpretation"
        )
    allocated, stored = required(header, "BitsAllocated"), required(header, "BitsStored")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise SourceError("unusable BitsAllocated", f"{stored} of {allocated} bits")
    if whole(header, "HighBit") not in (None, stored - 1):
        raise SourceError("unusable HighBit", f"{whole(header, 'HighBit')} with {stored} bits stored")
    if required(header, "PixelRepresentation") not in (0, 1):
        raise SourceError("unusable PixelRepresentation", "neither 0 nor 1")
    if file.pixels.start < 0:
        raise SourceError("no PixelData", "the file may be cut. Copy it again")
    if file.syntax in NATIVE:
        _check_native(file, rows * columns * allocated // 8, frames)
    else:
        _check_encapsulated(file, frames)


def _check_native(file: DicomFile, frame_bytes: int, frames: int) -> None:
    declared, expected = file.pixels.length, frame_bytes * frames
    if declared is None:
        raise SourceError("damaged header", "uncompressed PixelData without a length")
    present = min(declared, file.size - file.pixels.start)
    if present < expected:
        raise SourceError("truncated", f"{present} of {expected} bytes of pixels. Copy the file again")
    if declared - expected >= frame_bytes:  # less is padding, which real files have
        raise SourceError("pixels contradict the header", f"{declared} bytes where {expected} belong")


def _check_encapsulated(file: DicomFile, frames: int) -> None:
    if file.pixels.length is not None:
        raise SourceError("damaged header", "compressed PixelData with a length")
    if (present := len(fragments(file.stream, file.pixels.start))) < frames:
        raise SourceError("truncated", f"{present} of {frames} compressed frames. Copy the file again")


def pixel_format(file: DicomFile, frames: int) -> PixelFormat:
    """What `decode` has to know of a checked file."""
    header = file.header
    modality = text(header, "Modality")
    return PixelFormat(
        syntax=file.syntax,
        frames=frames,
        rows=required(header, "Rows"),
        columns=required(header, "Columns"),
        allocated=required(header, "BitsAllocated"),
        stored=required(header, "BitsStored"),
        signed=required(header, "PixelRepresentation") == 1,
        photometric=text(header, "PhotometricInterpretation"),
        vr=file.pixels.vr,
        modality=modality,
        padding=padding_ranges(header) if modality == "CT" else (),
    )


@dataclass
class OpenPixels:
    """The pixels of an open DICOM file."""

    stream: BinaryIO
    place: StoredPixels

    @property
    def format(self) -> PixelFormat:
        """How they are stored."""
        return self.place.format

    @cached_property
    def fragments(self) -> list[tuple[int, int]]:
        """As `part10.fragments`."""
        return fragments(self.stream, self.place.start)

    def stored_values(self, index: int) -> np.ndarray:
        """Frame `index` as it is stored: (rows, columns) integers, unused bits as they come. Raises `SourceError`."""
        return self._native_values(index) if self.format.syntax in LITTLE else self._decoded_values(index)

    def _native_values(self, index: int) -> np.ndarray:
        """A frame of uncompressed data, read where it will stay."""
        how = self.format
        values = np.empty((how.rows, how.columns), f"<{'i' if how.signed else 'u'}{how.allocated // 8}")
        self.stream.seek(self.place.start + index * values.nbytes)
        if self.stream.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
            raise SourceError("truncated", f"frame {index} is not whole. Copy the file again")
        return values

    def _decoded_values(self, index: int) -> np.ndarray:
        """A frame as the first of pydicom's plugins decodes it that can; the error is that of the first."""
        errors: list[SourceError] = []
        for name in plugins(self.format.syntax, self.format.stored):
            try:
                return self._decoded_by(name, index)
            except SourceError as error:
                errors.append(error)
        raise errors[0] if errors else SourceError("pixels cannot be decoded", "no decoder")

    def _decoded_by(self, name: str, index: int) -> np.ndarray:
        from pydicom.pixels.decoders.base import get_decoder

        decoder, options = get_decoder(self.format.syntax), self._decode_options()
        self.stream.seek(self.place.start)
        try:
            values, _ = decoder.as_array(self.stream, index=index, raw=True, decoding_plugin=name, **options)
        except MemoryError:
            raise
        except Exception as error:  # whatever a codec raises on a damaged stream
            reason = " ".join(str(error).split()).rpartition("available plugins: ")[2][:120]
            raise SourceError("pixels cannot be decoded", reason or type(error).__name__) from None
        expected = self.format.rows, self.format.columns
        if values.shape != expected:
            raise SourceError("pixels contradict the header", f"{values.shape} decoded where {expected} belongs")
        return values

    def _decode_options(self) -> dict[str, Any]:
        """What pydicom's decoders must be told of a stream (they are not given the header)."""
        how = self.format
        options: dict[str, Any] = {
            "rows": how.rows,
            "columns": how.columns,
            "samples_per_pixel": 1,
            "photometric_interpretation": how.photometric,
            "bits_allocated": how.allocated,
            "bits_stored": how.stored,
            "pixel_representation": int(how.signed),
            "number_of_frames": how.frames,
            "pixel_keyword": "PixelData",
            "pixel_vr": how.vr,
            "correct_unused_bits": False,
        }
        if how.syntax not in NATIVE and len(self.fragments) == how.frames > 1:
            first = self.fragments[0][0]  # one fragment a frame: found without walking through the frames before
            offsets = [position - first for position, _ in self.fragments]
            options["extended_offsets"] = (offsets, [length for _, length in self.fragments])
        return options


@contextmanager
def open_pixels(found: Found, place: StoredPixels) -> Iterator[OpenPixels]:
    """Open the pixels of a file that was scanned. Raises `SourceError` where it has changed since, OSError."""
    with open(found.path, "rb") as raw:
        status = os.fstat(raw.fileno())
        if (status.st_size, status.st_mtime_ns) != (found.size, found.mtime_ns):
            raise changed()
        deflated = place.format.syntax == DEFLATED
        yield OpenPixels(inflated(raw) if deflated else raw, place)


def decode(pixels: OpenPixels, index: int, scale: Rescale | None) -> Decoded:
    """Frame `index`: CT as int16 HU, 8-bit unsigned images as uint8, others as stored, in int16.

    Counts what was set to -1024 HU as padding, and what had to be clamped to int16.
    """
    values = pixels.stored_values(index)
    ends = ends_of(values)
    used = used_bits(values, ends, pixels.format)
    if scale is None:
        return Decoded(used) if used.dtype == np.uint8 else Decoded(*to_int16(used))
    padded = is_padding(values, ends, pixels.format.padding)
    if used is not values:
        ends = ends_of(used)
        padded |= is_padding(used, ends, pixels.format.padding)
    return Decoded(*hounsfield(used, ends, padded, scale))


def used_bits(values: np.ndarray, ends: Ends, how: PixelFormat) -> np.ndarray:
    """Clear (unsigned) or sign-extend (signed) the bits above BitsStored, which may hold anything (PS3.5 8.1.1).

    A codestream of a greater precision than BitsStored carries them too. A lossy one has no bits of its own: what it
    decodes to may overshoot the range a little, and is kept. Raises `SourceError` for more.
    """
    signed = values.dtype.kind == "i"
    shift = values.dtype.itemsize * 8 - how.stored
    if shift == 0 or _within(ends, how.stored, signed):
        return values
    if how.syntax in NATIVE or not COMPRESSED[how.syntax].lossy:
        return np.right_shift(np.left_shift(values, shift), shift)
    if _within(ends, how.stored, signed, OVERSHOOT):
        return values
    raise SourceError("pixels contradict the header", f"{ends[0]}..{ends[1]} with {how.stored} bits stored")


def _within(ends: Ends, bits: int, signed: bool, beyond: float = 0) -> bool:
    """Whether `bits` bits hold all values already, as they do in nearly every file. `beyond`: and that much more."""
    low, high = (-1 << bits - 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    more = int(beyond * (high - low))
    return low - more <= ends[0] and ends[1] <= high + more
