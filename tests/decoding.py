"""A frame of a DICOM file as ingest decodes it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("pydicom")


from lim_gpu.ingest.part10 import open_dicom, required, whole
from lim_gpu.ingest.pixels import check_pixels, decode


def decoded(path: Path, index: int = 0, assume_hu: bool = False):
    with open_dicom(str(path)) as file:
        rows, columns = required(file.header, "Rows"), required(file.header, "Columns")
        check_pixels(file, rows, columns, whole(file.header, "NumberOfFrames") or 1)
        return decode(file, index, assume_hu)
