"""Slices of a store written as NIfTI and PNG."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.intensity import Intensity
from lim_gpu.pictures import OFFSET_16
from lim_gpu.store.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCANNER = 1  # NIfTI's code for coordinates of the scanner
GZIP_LEVEL = 4


def write_nifti(volume: Volume, kept: Sequence[int], path: Path) -> None:
    """The slices `kept`, ascending, as .nii.gz: HU or stored values, columns x rows x slices.

    The affine is that of the kept slices, their median step between them; where there is none, none is written.
    """
    import nibabel

    header = volume.header.selected(kept, volume.z, volume.entry.digest, "")
    pixels = np.stack([volume.read_slice(i) for i in kept]).transpose(2, 1, 0)
    if header.unit == "16-bit":
        pixels = (pixels.astype(np.int32) + OFFSET_16).astype(np.uint16)
    affine = None if header.affine is None else LPS_TO_RAS @ np.array(header.affine)
    image = nibabel.Nifti1Image(pixels, affine)
    if affine is not None:
        _place(image, affine)
    path.write_bytes(gzip.compress(image.to_bytes(), GZIP_LEVEL, mtime=0))


def _place(image: Any, affine: NDArray[np.float64]) -> None:
    """Both of NIfTI's affines; a quaternion cannot tell a tilted gantry."""
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, SCANNER)
    image.set_qform(affine, SCANNER)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.header["qform_code"] = 0


def write_png(volume: Volume, i: int, intensity: Intensity, path: Path) -> None:
    """Slice i as an 8-bit grey picture."""
    Image.fromarray(intensity.of_volume(volume).to_uint8(volume.read(i, i + 1))[0]).save(path, format="PNG")
