"""A frame of a DICOM file as ingest decodes it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydicom")

from lim_gpu.ingest.header import required, whole
from lim_gpu.ingest.hounsfield import rescale
from lim_gpu.ingest.opening import open_dicom
from lim_gpu.ingest.pixels import check_pixels, decode, open_pixels, pixel_format
from lim_gpu.ingest.records import Decoded, Found, StoredPixels


def decoded(path: Path, index: int = 0, assume_hu: bool = False) -> Decoded:
    """Scanned and opened again, as two processes do."""
    status = path.stat()
    found = Found(str(path), path.name, 0, status.st_size, status.st_mtime_ns)
    with open_dicom(str(path)) as file:
        frames = whole(file.header, "NumberOfFrames") or 1
        check_pixels(file, required(file.header, "Rows"), required(file.header, "Columns"), frames)
        place = StoredPixels(file.pixels.start, file.pixels.length, pixel_format(file, frames))
        scale = rescale(file, index, assume_hu) if place.format.modality == "CT" else None
    with open_pixels(found, place) as opened:
        return decode(opened, index, scale)
