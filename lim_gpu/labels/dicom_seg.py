"""DICOM Segmentation objects: frames that name the slices they were drawn on. Read in a child process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import SourceError
from lim_gpu.labels.masks import Marked, Mask
from lim_gpu.labels.origins import Origins, Place
from lim_gpu.store.slices import SliceStore

HIGHEST = 255  # segment that a mask can name
HEAD = ["Modality"]
FIRST_FRAME = 1  # ReferencedFrameNumber counts from it
Image = tuple[str, int | None]  # SOP Instance UID, and the frame of one that has several, from 0


def read_segments(path: str) -> dict[Image, Mask] | None:
    """The masks (rows, columns) of a file by the image they lie on, the number of the segment where it is.

    Where segments overlap the highest number counts. None for a file that is no segmentation. Raises
    SourceError for one that cannot be used.
    """
    from pydicom.filereader import dcmread

    silence()
    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    try:
        if dcmread(path, stop_before_pixels=True, specific_tags=[*HEAD]).get("Modality") != "SEG":
            return None
        return _masks(dcmread(path))
    except SourceError:
        raise
    except Exception as error:  # pydicom raises many kinds, and their texts quote values
        raise SourceError("damaged segmentation", f"{type(error).__name__} while reading it. Copy it again") from None


def _masks(dataset: Any) -> dict[Image, Mask]:
    masks: dict[Image, Mask] = {}
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, _frames(dataset), strict=True):
        image = _image(group)
        mask = masks.setdefault(image, np.zeros(frame.shape, dtype=np.uint8))
        np.maximum(mask, _numbered(frame, group, shared, dataset), out=mask)
    return masks


def _frames(dataset: Any) -> Iterator[NDArray[Any]]:
    """The frames (rows, columns), one at a time.

    Those of single bits follow one another without a gap (PS3.5 8.1.1); pydicom 3.0 reads them as if each began at a
    byte.
    """
    from pydicom.pixels.utils import iter_pixels

    shape = (int(dataset.Rows), int(dataset.Columns))
    size = shape[0] * shape[1]
    if dataset.BitsAllocated != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset)
        return
    packed = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    for first in range(0, int(dataset.NumberOfFrames) * size, size):
        bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
        yield bits[first % 8 :][:size].reshape(shape)


def _numbered(frame: NDArray[Any], group: Any, shared: Any, dataset: Any) -> Mask:
    """The number of the segment at each pixel of a frame, 0 outside."""
    kind = str(dataset.SegmentationType)
    if kind == "LABELMAP":
        numbers = frame
    else:
        number = int(_segment(group, shared))
        most = int(dataset.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
        numbers = np.where(frame.astype(np.int64) * 2 >= most, number, 0)
    if numbers.max(initial=0) > HIGHEST:
        raise SourceError("too many segments", f"a mask names {HIGHEST} at most. Split the object")
    return numbers.astype(np.uint8)


def _segment(group: Any, shared: Any) -> int:
    found = _first(group, "SegmentIdentificationSequence") or _first(shared, "SegmentIdentificationSequence")
    if found is None:
        raise SourceError("no segment", "a frame names none. Write the object again")
    return int(found.ReferencedSegmentNumber)


def _image(group: Any) -> Image:
    """The one image that a frame was drawn on."""
    sources = (_first(group, "DerivationImageSequence") or {}).get("SourceImageSequence") or []
    if len(sources) != 1:
        text = f"a frame refers to {len(sources)} images, not one"
        raise SourceError("no slice", f"{text}. Convert it to NIfTI beside its volume")
    frame = sources[0].get("ReferencedFrameNumber")
    return str(sources[0].ReferencedSOPInstanceUID), None if frame is None else int(frame) - FIRST_FRAME


def _first(dataset: Any, sequence: str) -> Any:
    """The first item of a sequence, None without one."""
    items = dataset.get(sequence) if dataset is not None else None
    return items[0] if items else None


def marked_volumes(
    masks: Mapping[Image, Mask], store: SliceStore, origins: Origins, counted: Counter[str]
) -> Iterator[Marked]:
    """What `read_segments` found in a file, by the volumes of the store. InputError for masks of another size."""
    found: dict[str, dict[int, Mask]] = defaultdict(dict)
    for image, mask in masks.items():
        place = origins.find(*image)
        if place is None:
            counted["frames on images that are not in the store"] += 1
        else:
            found[place.volume][place.slice] = _of_size(mask, place, store)
    yield from (Marked(key, masks) for key, masks in found.items())


def _of_size(mask: Mask, place: Place, store: SliceStore) -> Mask:
    shape = store[place.volume].entry.shape[1:]
    if mask.shape != shape:
        drawn, own = (" x ".join(map(str, one)) for one in (mask.shape, shape))
        raise InputError(f"its frames are {drawn}, the slices {own}. Resample the masks to the images")
    return mask
