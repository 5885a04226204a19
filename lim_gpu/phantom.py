"""Procedural CT: chest, abdomen and head phantoms, and a data set of them as DICOM, NIfTI and PNG files.

Nothing here is meant to be an anatomy; it has what the engine must cope with: a body that changes along the axis,
lungs, ribs and spine, a table, padding outside the field of view, noise, and neighbours that are nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import canonical_json, read_json, write_text

AIR, FAT, SOFT, LIVER, HEART, BONE, MARROW, LUNG, TABLE, BRAIN, CSF = (
    -1000, -95, 40, 62, 48, 900, 250, -840, -150, 34, 8,
)  # HU  # fmt: skip
NOISE = 11.0  # HU, standard deviation
Field = NDArray[np.float64]
Painter = Callable[[Field, float, Field, Field, np.random.Generator], None]


@dataclass(frozen=True)
class PhantomVolume:
    """One volume of the data set: what it shows, its size, and the kind of file it is written to."""

    name: str
    kind: str  # "chest", "abdomen" or "head"
    container: str  # "dicom", "nifti" or "png"
    slices: int
    height: int
    width: int
    spacing: float  # mm between slices
    window: tuple[float, float]  # level, width in HU: of the DICOM tags, or of the 8-bit export


DATA_SET = (
    PhantomVolume("chest-a", "chest", "dicom", 36, 192, 192, 5.0, (-400, 1500)),
    PhantomVolume("chest-b", "chest", "png", 20, 160, 144, 7.0, (-400, 1500)),
    PhantomVolume("abdomen", "abdomen", "dicom", 22, 168, 208, 5.0, (60, 400)),
    PhantomVolume("head", "head", "nifti", 18, 150, 128, 5.0, (40, 80)),
)


def phantom(kind: str, slices: int, height: int, width: int, seed: int) -> NDArray[np.int16]:
    """HU (slices, height, width) of a "chest", "abdomen" or "head", from feet to head; the same for the same seed."""
    painter: Painter = {"chest": _chest, "abdomen": _abdomen, "head": _head}[kind]
    rng = np.random.default_rng([seed, *kind.encode()])
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    body = rng.normal(0, 0.015, 8)  # this patient's own proportions
    volume = np.empty((slices, height, width), dtype=np.int16)
    for i in range(slices):
        along = i / max(slices - 1, 1)
        hu = np.full((height, width), float(AIR))
        _paint(hu, TABLE, _ellipse(x, y, 0, 1.35, 1.25, 0.52) & ~_ellipse(x, y, 0, 1.35, 1.19, 0.47))
        painter(hu, along, x * (1 + body[0]), y * (1 + body[1]), np.random.default_rng([seed, 7]))
        hu += rng.normal(0, NOISE, hu.shape)
        hu[x**2 + y**2 > 1.06] = -1024  # outside the round field of view
        volume[i] = np.clip(np.rint(hu), -1024, 3071)
    return volume


def _ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float) -> NDArray[np.bool_]:
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1


def _paint(hu: Field, value: float, where: NDArray[np.bool_]) -> None:
    hu[where] = value


def _trunk(hu: Field, along: float, x: Field, y: Field) -> tuple[float, float]:
    """Skin, fat, muscle and spine; returns the half-axes of the body."""
    rx, ry = 0.84 - 0.10 * along + 0.03 * np.sin(9 * along), 0.60 - 0.05 * along
    _paint(hu, FAT, _ellipse(x, y, 0, 0.02, rx, ry))
    _paint(hu, SOFT, _ellipse(x, y, 0, 0.02, rx - 0.06, ry - 0.06))
    vertebra = np.cos(2 * np.pi * 6.5 * along)  # six and a half vertebrae with their discs
    spine = 0.11 + 0.012 * vertebra
    _paint(hu, BONE if vertebra > -0.5 else 650, _ellipse(x, y, 0, 0.42, spine, spine * 0.8))
    _paint(hu, MARROW, _ellipse(x, y, 0, 0.42, spine * 0.8, spine * 0.62))
    _paint(hu, CSF, _ellipse(x, y, 0, 0.53, 0.035, 0.03))
    return rx, ry


def _chest(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    rx, ry = _trunk(hu, along, x, y)
    swell = np.sin(np.pi * (0.12 + 0.82 * along)) ** 0.6
    lungs = np.zeros(hu.shape, dtype=bool)
    for side in (-1, 1):
        lungs |= _ellipse(x, y, side * 0.40, 0.0, 0.29 * swell, 0.42 * swell)
    lungs &= ~_ellipse(x, y, 0.10, -0.08, 0.24 * np.sin(np.pi * min(1.0, 0.2 + along)) + 0.05, 0.25)
    _paint(hu, LUNG, lungs)
    for cx, cy, radius, drift in rng.uniform((-0.62, -0.36, 0.006, -0.3), (0.62, 0.36, 0.026, 0.3), (60, 4)):
        _paint(hu, SOFT, lungs & _ellipse(x, y, cx + drift * (along - 0.5), cy, radius, radius * 1.2))
    _paint(hu, HEART, _ellipse(x, y, 0.08, -0.10, 0.23 * (1 - 0.75 * along), 0.22 * (1 - 0.6 * along)))
    _paint(hu, HEART + 120, _ellipse(x, y, 0.05, 0.22, 0.07, 0.07))
    for angle in np.linspace(0, 2 * np.pi, 18, endpoint=False) + 5.0 * along:
        if abs(np.sin(angle)) < 0.97:
            _paint(
                hu, BONE, _ellipse(x, y, (rx - 0.10) * np.cos(angle), 0.02 + (ry - 0.10) * np.sin(angle), 0.05, 0.025)
            )


def _abdomen(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    _trunk(hu, along, x, y)
    liver = 0.34 * np.clip(0.2 + 1.2 * along, 0, 1)
    _paint(hu, LIVER, _ellipse(x, y, -0.36, -0.10, liver, liver * 0.95))
    for side in (-1, 1):
        kidney = 0.13 * np.sqrt(max(0.0, 1 - ((along - 0.4 - 0.05 * side) / 0.3) ** 2))
        if kidney > 0:
            _paint(hu, SOFT + 70, _ellipse(x, y, side * 0.36, 0.26, kidney * 0.8, kidney))
            _paint(hu, FAT, _ellipse(x, y, side * 0.33, 0.25, kidney * 0.3, kidney * 0.35))
    for cx, cy, radius, phase in rng.uniform((-0.45, -0.38, 0.04, 0), (0.5, 0.05, 0.09, 6), (12, 4)):
        where = _ellipse(x, y, cx + 0.06 * np.sin(8 * along + phase), cy, radius, radius * 0.8)
        _paint(hu, -700 if phase < 2 else SOFT - 15, where)
    _paint(hu, HEART + 110, _ellipse(x, y, 0.05, 0.24, 0.055, 0.055))


def _head(hu: Field, along: float, x: Field, y: Field, rng: np.random.Generator) -> None:
    size = np.sqrt(max(0.12, 1 - (0.25 + 0.72 * along) ** 3))
    rx, ry = 0.62 * size, 0.78 * size
    _paint(hu, SOFT, _ellipse(x, y, 0, 0, rx + 0.05, ry + 0.05))
    _paint(hu, BONE + 300, _ellipse(x, y, 0, 0, rx, ry))
    _paint(hu, BRAIN, _ellipse(x, y, 0, 0, rx - 0.07, ry - 0.07))
    ventricle = 0.16 * max(0.0, 1 - ((along - 0.55) / 0.3) ** 2)
    for side in (-1, 1):
        _paint(hu, CSF, _ellipse(x, y, side * 0.10, -0.05, ventricle * 0.4 + 1e-6, ventricle + 1e-6))
        if along < 0.25:
            _paint(hu, AIR, _ellipse(x, y, side * 0.12, -0.55, 0.08, 0.10))
    for cx, cy, radius in rng.uniform((-0.4, -0.5, 0.01), (0.4, 0.5, 0.04), (14, 3)):
        _paint(hu, BRAIN + 5, _ellipse(x, y, cx * size, cy * size, radius, radius))


def write_data_set(folder: Path, seed: int) -> None:
    """Write `DATA_SET` as source files under `folder`: DICOM series, a NIfTI file, a folder of 8-bit PNGs.

    Files of the same seed that stand already are left as they are.
    """
    description = {"seed": seed, "volumes": [list(vars(volume).values()) for volume in DATA_SET]}
    record = folder / "phantom.json"
    if record.is_file() and canonical_json(read_json(record)) == canonical_json(description):
        return
    for number, volume in enumerate(DATA_SET):
        hu = phantom(volume.kind, volume.slices, volume.height, volume.width, seed + number)
        writer = {"dicom": _write_dicom, "nifti": _write_nifti, "png": _write_png}[volume.container]
        writer(folder, volume, hu, number)
    write_text(record, canonical_json(description))


def _write_dicom(folder: Path, volume: PhantomVolume, hu: NDArray[np.int16], number: int) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    target = folder / volume.name
    target.mkdir(parents=True, exist_ok=True)
    root = f"1.2.826.0.1.3680043.10.1338.{number + 1}"  # made up for the phantom
    for i, pixels in enumerate(hu):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{root}.3.{i + 1}")
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{root}.1", f"{root}.2"
        ds.PatientID, ds.PatientName, ds.Modality = f"phantom-{volume.name}", "Phantom", "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.InstanceNumber = len(hu) - i  # runs from head to feet, as scanners count
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-200.0, -200.0, i * volume.spacing]
        ds.PixelSpacing, ds.SliceThickness = [2.0, 2.0], volume.spacing
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.WindowCenter, ds.WindowWidth = volume.window
        ds.PixelData = (pixels.astype(np.int32) + 1024).astype("<u2").tobytes()
        # Names are not in spatial order, as in most archives.
        ds.save_as(target / f"{(i * 7919) % 10007:05d}.dcm", enforce_file_format=True)


def _write_nifti(folder: Path, volume: PhantomVolume, hu: NDArray[np.int16], number: int) -> None:
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    # Rows run to posterior and columns to the left in `hu`; NIfTI's axes run to the right, anterior and superior.
    ras = hu.transpose(2, 1, 0)[::-1, ::-1]
    affine = np.diag([2.0, 2.0, volume.spacing, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(ras), affine), folder / f"{volume.name}.nii.gz")


def _write_png(folder: Path, volume: PhantomVolume, hu: NDArray[np.int16], number: int) -> None:
    from PIL import Image

    from lim_gpu.intensity import Intensity

    target = folder / volume.name
    target.mkdir(parents=True, exist_ok=True)
    level, width = volume.window
    for i, pixels in enumerate(Intensity.parse(window=f"{level},{width}").to_uint8(hu)):
        Image.fromarray(pixels).save(target / f"{volume.name}_{i}.png")
