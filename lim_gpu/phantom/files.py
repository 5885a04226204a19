"""Procedural CT as files: a data set of DICOM, NIfTI and PNG, and angiograms with label maps as NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import canonical_json, read_json, write_text
from lim_gpu.phantom.angiogram import angiogram
from lim_gpu.phantom.bodies import phantom

SCANS, EMBOLI, NODULES = "scans", "emboli", "nodules"  # folders of `write_angiograms`


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


def write_angiograms(folder: Path, seed: int, patients: int = 6, shape: tuple[int, int, int] = (32, 96, 96)) -> None:
    """Write `patients` angiograms as SCANS/patient-N.nii.gz, and label maps of equal names below EMBOLI and NODULES.

    Every third patient has no emboli. Files of the same seed that stand already are left as they are.
    """
    description = {"seed": seed, "patients": patients, "shape": list(shape)}
    record = folder / "phantom.json"
    if record.is_file() and canonical_json(read_json(record)) == canonical_json(description):
        return
    for number in range(patients):
        made = angiogram(*shape, seed=seed + number, emboli=3 * bool(number % 3))
        for part, values in ((SCANS, made.hu), (EMBOLI, made.emboli), (NODULES, made.nodules)):
            _save_nifti(folder / part / f"patient-{number}.nii.gz", values, made.spacing)
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
    _save_nifti(folder / f"{volume.name}.nii.gz", hu, (volume.spacing, 2.0, 2.0))


def _save_nifti(path: Path, values: NDArray[Any], spacing: tuple[float, float, float]) -> None:
    """values (n, H, W) as a NIfTI file; spacing: of slices, rows and columns in mm."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    # Rows run to posterior and columns to the left in `values`; NIfTI's axes run to the right, anterior and superior.
    ras = values.transpose(2, 1, 0)[::-1, ::-1]
    affine = np.diag([*spacing[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(ras), affine), path)


def _write_png(folder: Path, volume: PhantomVolume, hu: NDArray[np.int16], number: int) -> None:
    from PIL import Image

    from lim_gpu.intensity import Intensity

    target = folder / volume.name
    target.mkdir(parents=True, exist_ok=True)
    level, width = volume.window
    for i, pixels in enumerate(Intensity.parse(window=f"{level},{width}").to_uint8(hu)):
        Image.fromarray(pixels).save(target / f"{volume.name}_{i}.png")
