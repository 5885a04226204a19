"""DICOM files made for tests: CT slices and series of any rescale, sign, padding and transfer syntax, enhanced
multi-frame objects, localizers. Every function returns the path or the data set that it made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    generate_uid,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
ENCODINGS = (*NATIVE, JPEGLSLossless)  # a header may be written in these four ways, and pixels be encapsulated
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Function = TypeVar("Function", bound=Callable[..., Any])


def _allowing_bad_values(function: Function) -> Function:
    """pydicom warns of values that are against the standard; here they are meant."""

    @wraps(function)
    def quiet(*arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments, **options)

    return quiet  # type: ignore[return-value]


def uid(name: str) -> str:
    """The same UID for the same name."""
    return generate_uid(entropy_srcs=[name])


def stored_slice(seed: int, shape: tuple[int, int] = (40, 36), signed: bool = True) -> np.ndarray:
    """A noisy ramp, (rows, columns) int16 or uint16, within 12 bits."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * 20 + rng.integers(0, 200, shape)
    return (ramp - 1000).astype(np.int16) if signed else (ramp + 24).astype(np.uint16)


@_allowing_bad_values
def ct(
    stored: np.ndarray,
    *,
    z: float = 0.0,
    number: int | None = 1,
    series: str = "series",
    study: str = "study",
    patient: str = "patient",
    orientation: Sequence[float] | None = AXIAL,
    position: Sequence[float] | None = None,
    spacing: Sequence[float] | None = (0.8, 0.7),
    rescale: tuple[Any, Any] | None = (1, 0),
    **elements: Any,
) -> FileDataset:
    """A CT slice. `stored` (rows, columns), or (frames, rows, columns); `elements` set or (None) delete elements."""
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.SOPClassUID = CTImageStorage
    instance = f"{series}/{z}/{number}/{stored.tobytes()[:4000]!r}"
    if spacing != (0.8, 0.7) or "ImageType" in elements:
        instance += f"/{spacing}/{elements.get('ImageType')}"
    dataset.SOPInstanceUID = uid(instance)
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", patient, f"{patient}^name"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(series)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber, dataset.SliceThickness = number, 3
    dataset.ImagePositionPatient = None if orientation is None else list(position or (-100.0, -120.0, z))
    dataset.ImageOrientationPatient, dataset.PixelSpacing = orientation and list(orientation), spacing and list(spacing)
    set_pixels(dataset, stored)
    if rescale is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = rescale
        dataset.RescaleType = "HU"
    change(dataset, **elements)
    return dataset


def set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Put stored values and all elements that describe them."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"


def change(dataset: Dataset, **elements: Any) -> None:
    """Set elements by keyword; None deletes, a function is called with the data set and gives the value."""
    for keyword, value in elements.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


@_allowing_bad_values
def save(
    dataset: FileDataset, path: Path, syntax: UID = ExplicitVRLittleEndian, bits: int | None = None, **encoding: Any
) -> Path:
    """Write a data set in a transfer syntax; compressed ones are encoded (JPEG Lossless needs python-gdcm).

    `bits` is what the header then says of BitsStored, whatever the codestream holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return _transcode(save(dataset, path), syntax)
    if syntax == JPEGBaseline8Bit:
        _encode_jpeg(dataset)
    elif syntax not in NATIVE:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False, **encoding)
    elif syntax == ExplicitVRBigEndian:
        swapped = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}").byteswap()
        dataset.PixelData = swapped.tobytes()
    if bits is not None:
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def _encode_jpeg(dataset: FileDataset) -> None:
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    stream = io.BytesIO()
    pixels = np.frombuffer(dataset.PixelData, np.uint8).reshape(dataset.Rows, dataset.Columns)
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True


def _transcode(path: Path, syntax: UID) -> Path:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    changer = gdcm.ImageChangeTransferSyntax()
    changer.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    changer.SetInput(reader.GetImage())
    assert changer.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(changer.GetOutput())
    assert writer.Write()
    return path


def series(
    folder: Path,
    count: int = 5,
    *,
    step: float = 3.0,
    shape: tuple[int, int] = (40, 36),
    signed: bool = True,
    syntax: UID = ExplicitVRLittleEndian,
    names: Sequence[str] | None = None,
    **options: Any,
) -> list[np.ndarray]:
    """Write an axial series whose file names run against the positions; returns its stored slices, feet to head."""
    stored = [stored_slice(i + 1, shape, signed) for i in range(count)]
    for i, pixels in enumerate(stored):
        name = names[i] if names else f"slice{count - i}.dcm"
        settings = {"z": step * i, "number": count - i} | options
        save(ct(pixels, **settings), folder / name, syntax)
    return stored


def enhanced(
    stored: np.ndarray,
    *,
    z: Sequence[float],
    rescale: Sequence[tuple[float, float]] | None = None,
    acquisitions: Sequence[int] | None = None,
    groups: Sequence[dict[str, Dataset]] | None = None,
    **options: Any,
) -> FileDataset:
    """An enhanced multi-frame CT: `stored` (frames, rows, columns), a position and a rescale a frame.

    `groups`: further functional groups of each frame, by the name of their sequence.
    """
    dataset = ct(stored, rescale=None, **options)
    dataset.SOPClassUID, dataset.NumberOfFrames = EnhancedCTImageStorage, len(stored)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    shared = Dataset()
    shared.PixelMeasuresSequence = [item(PixelSpacing=[0.8, 0.7], SliceThickness=3)]
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(AXIAL))]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for i, height in enumerate(z):
        frame = Dataset()
        frame.PlanePositionSequence = [item(ImagePositionPatient=[-100.0, -120.0, height])]
        slope, intercept = rescale[i] if rescale else (1, 0)
        frame.PixelValueTransformationSequence = [
            item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
        ]
        frame.FrameContentSequence = [item(FrameAcquisitionNumber=acquisitions[i] if acquisitions else 1)]
        change(frame, **{name: [group] for name, group in (groups[i] if groups else {}).items()})
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def item(**elements: Any) -> Dataset:
    """A data set of some elements."""
    dataset = Dataset()
    change(dataset, **elements)
    return dataset
