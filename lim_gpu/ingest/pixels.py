"""DICOM pixels: whether the file holds all of them, which plugin decodes them, and stored values to HU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lim_gpu.ingest.part10 import DicomFile, Header, number, required, text, texts, whole
from lim_gpu.ingest.records import INT16, Decoded, SourceError, to_int16

AIR = -1024  # HU, what padding becomes
EXACT = 1 << 20  # slopes and intercepts below give whole numbers that float64 holds exactly, of 32 bits too
LIDC_PADDING = -2000  # stored outside the field of view by scanners that write no padding tag

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LITTLE = tuple(syntax for syntax in NATIVE if syntax != ExplicitVRBigEndian)  # as the store holds pixels
# Plugins of pydicom 3 in order of preference. GDCM, with its history of memory faults, only where nothing else decodes.
PLUGINS: dict[UID, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("pillow",),
    JPEGExtended12Bit: ("pillow", "pylibjpeg"),
    JPEGLossless: ("pylibjpeg", "gdcm"),
    JPEGLosslessSV1: ("pylibjpeg", "gdcm"),
    JPEGLSLossless: ("pyjpegls",),
    JPEGLSNearLossless: ("pyjpegls",),
    JPEG2000Lossless: ("pylibjpeg", "pillow"),
    JPEG2000: ("pylibjpeg", "pillow"),
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
    RLELossless: ("pydicom",),
}
REMEDIES: dict[UID, str] = {
    JPEGExtended12Bit: "pip install pylibjpeg pylibjpeg-libjpeg (GPL-3)",
    JPEGLossless: "pip install 'lim-gpu[codecs]'",
    JPEGLosslessSV1: "pip install 'lim-gpu[codecs]'",
    JPEGLSLossless: "pip install pyjpegls",
    JPEGLSNearLossless: "pip install pyjpegls",
    HTJ2KLossless: "pip install pylibjpeg pylibjpeg-openjpeg",
    HTJ2KLosslessRPCL: "pip install pylibjpeg pylibjpeg-openjpeg",
    HTJ2K: "pip install pylibjpeg pylibjpeg-openjpeg",
}
COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


@dataclass(frozen=True)
class Rescale:
    """HU = slope * stored + intercept. `marks` says what is doubtful about it."""

    slope: float = 1.0
    intercept: float = 0.0
    marks: frozenset[str] = frozenset()


def plugin(syntax: UID, bits_stored: int) -> str | None:
    """The pydicom plugin that decodes a transfer syntax here ("" for uncompressed data), None where there is none."""
    if syntax in NATIVE:
        return ""
    wanted = PLUGINS.get(syntax, ())
    if syntax == JPEGExtended12Bit and bits_stored > 8:
        wanted = ("pylibjpeg",)  # Pillow has no 12-bit JPEG
    available = get_decoder(syntax).available_plugins if wanted else ()
    return next((name for name in wanted if name in available), None)


def missing_decoder(syntax: UID, bits_stored: int) -> str:
    """How to install what decodes `syntax`, "" where it is here. Raises `SourceError` for one that nothing decodes."""
    if syntax not in NATIVE and syntax not in PLUGINS:
        name = syntax.name if syntax.is_transfer_syntax else "unknown"
        raise SourceError("unsupported transfer syntax", f"{name}. Convert it to an uncompressed one")
    return "" if plugin(syntax, bits_stored) is not None else REMEDIES.get(syntax, "pip install --upgrade lim-gpu")


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
    if len(file.fragments) < frames:
        raise SourceError("truncated", f"{len(file.fragments)} of {frames} compressed frames. Copy the file again")


def rescale(file: DicomFile, index: int, assume_hu: bool) -> Rescale:
    """The modality rescale of a CT frame.

    Raises `SourceError` unless it is finite and not 0, or absent with `assume_hu`.
    """
    group = file.group("PixelValueTransformationSequence", index)
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope is None and intercept is None and assume_hu:
        return Rescale(marks=frozenset({"assumed_hu"}))
    if slope is None or intercept is None:
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise SourceError(f"no {missing}", "the HU are unknown. --assume-hu takes the stored values for HU")
    if slope == 0:
        raise SourceError("unusable RescaleSlope", "it is 0")
    other_unit = texts(group, "RescaleType")[:1] not in ([], ["HU"], ["US"])  # US: unspecified (PS3.3 C.11.1.1.2)
    return Rescale(slope, intercept, frozenset({"not_hu"} if other_unit else ()))


def stored_values(file: DicomFile, index: int) -> np.ndarray:
    """Frame `index` as it is stored: (rows, columns) integers, unused bits as they come. Raises `SourceError`."""
    return _native_values(file, index) if file.syntax in LITTLE else _decoded_values(file, index)


def _native_values(file: DicomFile, index: int) -> np.ndarray:
    """A frame of uncompressed data, read where it will stay; the header is checked again, for it was read again."""
    rows, columns = required(file.header, "Rows"), required(file.header, "Columns")
    check_pixels(file, rows, columns, whole(file.header, "NumberOfFrames") or 1)
    kind = "i" if required(file.header, "PixelRepresentation") else "u"
    values = np.empty((rows, columns), f"<{kind}{required(file.header, 'BitsAllocated') // 8}")
    file.stream.seek(file.pixels.start + index * values.nbytes)
    if file.stream.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
        raise SourceError("truncated", f"frame {index} is not whole. Copy the file again")
    return values


def _decoded_values(file: DicomFile, index: int) -> np.ndarray:
    """A frame as pydicom's plugins decode it."""
    options = _decode_options(file)
    file.stream.seek(file.pixels.start)
    chosen = plugin(file.syntax, options["bits_stored"]) or ""
    try:
        values, _ = get_decoder(file.syntax).as_array(
            file.stream, index=index, raw=True, decoding_plugin=chosen, **options
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever a codec raises on a damaged stream
        reason = " ".join(str(error).split()).rpartition("available plugins: ")[2][:120]
        raise SourceError("pixels cannot be decoded", reason or type(error).__name__) from None
    expected = options["rows"], options["columns"]
    if values.shape != expected:
        raise SourceError("pixels contradict the header", f"{values.shape} decoded where {expected} belongs")
    return values


def _decode_options(file: DicomFile) -> dict[str, Any]:
    """What pydicom's decoders must be told of a stream (they are not given the header)."""
    header = file.header
    frames = whole(header, "NumberOfFrames") or 1
    options: dict[str, Any] = {
        "rows": required(header, "Rows"),
        "columns": required(header, "Columns"),
        "samples_per_pixel": 1,
        "photometric_interpretation": text(header, "PhotometricInterpretation"),
        "bits_allocated": required(header, "BitsAllocated"),
        "bits_stored": required(header, "BitsStored"),
        "pixel_representation": required(header, "PixelRepresentation"),
        "number_of_frames": frames,
        "pixel_keyword": "PixelData",
        "pixel_vr": file.pixels.vr,
        "correct_unused_bits": False,
    }
    if file.syntax not in NATIVE and len(file.fragments) == frames > 1:
        first = file.fragments[0][0]  # one fragment a frame: found without walking through the frames before
        offsets = [position - first for position, _ in file.fragments]
        options["extended_offsets"] = (offsets, [length for _, length in file.fragments])
    return options


def decode(file: DicomFile, index: int, assume_hu: bool = False) -> Decoded:
    """Frame `index` of a checked file: CT as int16 HU, 8-bit unsigned images as uint8, others as stored, in int16.

    Counts what was set to -1024 HU as padding, and what had to be clamped to int16.
    """
    values = stored_values(file, index)
    used = used_bits(values, file)
    if text(file.header, "Modality") != "CT":
        return Decoded(used) if used.dtype == np.uint8 else Decoded(*to_int16(used))
    padded = _is_padding(values, file.header)
    if used is not values:
        padded |= _is_padding(used, file.header)
    scale = rescale(file, index, assume_hu)
    pixels, counts = _whole_hounsfield(used, padded, scale) or _hounsfield(used, padded, scale)
    return Decoded(pixels, counts + Counter(padding=int(np.count_nonzero(padded))))


def _hounsfield(used: np.ndarray, padded: np.ndarray, scale: Rescale) -> tuple[np.ndarray, Counter[str]]:
    """HU of any rescale: float64, rounded and clamped."""
    hounsfield = used * np.float64(scale.slope) + np.float64(scale.intercept)
    hounsfield[padded] = AIR
    return to_int16(hounsfield)


def _whole_hounsfield(used: np.ndarray, padded: np.ndarray, scale: Rescale) -> tuple[np.ndarray, Counter[str]] | None:
    """The same in whole numbers, where slope and intercept are whole and no value leaves int16; else None.

    Modulo 2^16 then loses nothing. float64 takes 20 times as long.
    """
    if not (scale.slope.is_integer() and scale.intercept.is_integer()):
        return None
    slope, intercept = int(scale.slope), int(scale.intercept)
    if max(abs(slope), abs(intercept)) >= EXACT:
        return None
    ends = [int(end) * slope + intercept for end in (used.min(), used.max())]
    if min(ends) < INT16.min or max(ends) > INT16.max:
        return None
    pixels = used.astype(np.int16)
    if slope != 1:
        pixels *= np.array(slope).astype(np.int16)
    pixels += np.array(intercept).astype(np.int16)
    if padded.any():
        pixels[padded] = AIR
    return pixels, Counter()


def used_bits(values: np.ndarray, file: DicomFile) -> np.ndarray:
    """Clear (unsigned) or sign-extend (signed) the bits above BitsStored, which may hold anything (PS3.5 8.1.1).

    JPEG-LS and JPEG 2000 streams say their own precision; pydicom has applied it already.
    """
    stored = required(file.header, "BitsStored")
    shift = values.dtype.itemsize * 8 - stored
    own_precision = file.syntax in PLUGINS and file.syntax.name.startswith(("JPEG-LS", "JPEG 2000", "High-Throughput"))
    if shift == 0 or own_precision or _within(values, stored):
        return values
    return np.right_shift(np.left_shift(values, shift), shift)


def _within(values: np.ndarray, bits: int) -> bool:
    """Whether `bits` bits hold all values already, as they do in nearly every file."""
    low, high = (-1 << bits - 1, 1 << bits - 1) if values.dtype.kind == "i" else (0, 1 << bits)
    return bool(low <= values.min() and values.max() < high)


def _is_padding(values: np.ndarray, header: Header) -> np.ndarray:
    """Pixels that hold PixelPaddingValue, lie in its range (PS3.3 C.7.5.1.1.2), or hold the untagged -2000.

    Compared as bit patterns: -2000 in an unsigned image is 63536.
    """
    ends = [(LIDC_PADDING, LIDC_PADDING)] if values.dtype.itemsize > 1 else []
    first = whole(header, "PixelPaddingValue")
    if first is not None:
        limit = whole(header, "PixelPaddingRangeLimit")
        ends.append((first, first if limit is None else limit))
    found = np.zeros(values.shape, bool)
    lowest, highest = values.min(), values.max()
    for low, high in np.sort(np.array(ends, np.int64).reshape(-1, 2).astype(values.dtype)):
        if low <= highest and lowest <= high:
            found |= (values >= low) & (values <= high)
    return found
