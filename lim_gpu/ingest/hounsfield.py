"""Stored values of CT to HU: the rescale of a frame, padding, rounding and clamping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lim_gpu.ingest.header import Header, number, required, texts, whole
from lim_gpu.ingest.part10 import DicomFile
from lim_gpu.ingest.records import AIR, INT16, Rescale, SourceError, to_int16

EXACT = 1 << 20  # slopes and intercepts below give whole numbers that float64 holds exactly, of 32 bits too
Ends = tuple[int, int]  # the lowest and the highest of some values
LIDC_PADDING = -2000  # stored outside the field of view by scanners that write no padding tag


def rescale(file: DicomFile, index: int, assume_hu: bool) -> Rescale:
    """The modality rescale of a CT frame: that of its functional group, else the one at the top level.

    Raises `SourceError` unless it is finite and not 0, or absent with `assume_hu`.
    """
    group = file.group("PixelValueTransformationSequence", index)
    if not ("RescaleSlope" in group or "RescaleIntercept" in group):
        group = file.header  # where CBCT and converters write it in enhanced objects, too
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope is None and intercept is None and "ModalityLUTSequence" in file.header:
        raise SourceError("Modality LUT", "its table of HU is not read. Convert it with dcm2niix")
    if slope is None and intercept is None and assume_hu:
        return Rescale(marks=frozenset({"assumed_hu"}))
    if slope is None or intercept is None:
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise SourceError(f"no {missing}", "the HU are unknown. --assume-hu takes the stored values for HU")
    if slope == 0:
        raise SourceError("unusable RescaleSlope", "it is 0")
    other_unit = texts(group, "RescaleType")[:1] not in ([], ["HU"], ["US"])  # US: unspecified (PS3.3 C.11.1.1.2)
    return Rescale(slope, intercept, frozenset({"not_hu"} if other_unit else ()))


def hounsfield(used: np.ndarray, ends: Ends, padded: np.ndarray, scale: Rescale) -> tuple[np.ndarray, Counter[str]]:
    """HU (H, W) int16 of stored values, -1024 where they are `padded`; and how many are so, and were clamped."""
    pixels, counts = _whole_hounsfield(used, ends, padded, scale) or _hounsfield(used, padded, scale)
    counts["padding"] += int(np.count_nonzero(padded))
    return pixels, counts


def _hounsfield(used: np.ndarray, padded: np.ndarray, scale: Rescale) -> tuple[np.ndarray, Counter[str]]:
    """HU of any rescale: float64, rounded and clamped."""
    values = used * np.float64(scale.slope) + np.float64(scale.intercept)
    values[padded] = AIR
    return to_int16(values)


def _whole_hounsfield(
    used: np.ndarray, ends: Ends, padded: np.ndarray, scale: Rescale
) -> tuple[np.ndarray, Counter[str]] | None:
    """The same in whole numbers, where slope and intercept are whole and no value leaves int16; else None.

    Modulo 2^16 then loses nothing. float64 takes 20 times as long.
    """
    if not (scale.slope.is_integer() and scale.intercept.is_integer()):
        return None
    slope, intercept = int(scale.slope), int(scale.intercept)
    if max(abs(slope), abs(intercept)) >= EXACT:
        return None
    scaled = [end * slope + intercept for end in ends]
    if min(scaled) < INT16.min or max(scaled) > INT16.max:
        return None
    words = used.view(np.int16) if used.itemsize == 2 and used.dtype.isnative else used.astype(np.int16)
    if slope != 1:
        words = words * np.array(slope).astype(np.int16)
    pixels = words + np.array(intercept).astype(np.int16)
    if padded.any():
        pixels[padded] = AIR
    return pixels, Counter()


def padding_ranges(header: Header) -> tuple[tuple[int, int], ...]:
    """Stored values that are padding: PixelPaddingValue, or its range (PS3.3 C.7.5.1.1.2), and LIDC's -2000."""
    ends = [(LIDC_PADDING, LIDC_PADDING)] if required(header, "BitsAllocated") > 8 else []
    first = whole(header, "PixelPaddingValue")
    if first is not None:
        limit = whole(header, "PixelPaddingRangeLimit")
        ends.append((first, first if limit is None else limit))
    return tuple(ends)


def ends_of(values: np.ndarray) -> Ends:
    """The lowest and the highest value."""
    return int(values.min()), int(values.max())


def is_padding(values: np.ndarray, ends: Ends, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pixels (H, W) whose bit pattern lies in a range: -2000 in an unsigned image is 63536."""
    found = np.zeros(values.shape, bool)
    for low, high in np.sort(np.array(ranges, np.int64).reshape(-1, 2).astype(values.dtype)):
        if low <= ends[1] and ends[0] <= high:
            found |= (values >= low) & (values <= high)
    return found
