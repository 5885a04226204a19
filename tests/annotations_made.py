"""Annotations made for tests: LIDC's XML, and DICOM Segmentation objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from dicom_files import item, uid

SHAPE = (41, 37)  # an odd number of pixels: frames of bits do not end at bytes
NAMESPACE = "http://www.nih.gov"


def square(left, top, side):
    """The pixels on the line of a square, in order."""
    right, bottom = left + side, top + side
    line = [(x, top) for x in range(left, right)] + [(right, y) for y in range(top, bottom)]
    return line + [(x, bottom) for x in range(right, left, -1)] + [(left, y) for y in range(bottom, top, -1)]


def roi(sop, z, points, inclusion="TRUE"):
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    place = f"<imageZposition>{z} </imageZposition><imageSOP_UID>{sop}</imageSOP_UID>"
    return f"<roi>{place}<inclusion>{inclusion}</inclusion>{edges}</roi>"


def lidc(path: Path, readers, root="LidcReadMessage") -> Path:
    """An XML file: `readers` is a list, for each reader, of nodules, which are lists of `roi`."""
    sessions = ""
    for nodules in readers:
        read = "".join(
            f"<unblindedReadNodule><noduleID>N{number}</noduleID>{''.join(rois)}</unblindedReadNodule>"
            for number, rois in enumerate(nodules)
        )
        other = "<nonNodule><nonNoduleID>1</nonNoduleID></nonNodule>"
        sessions += f"<readingSession>{read}{other}</readingSession>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{NAMESPACE}">{sessions}</{root}>')
    return path


def segmentation(path: Path, frames, kind="BINARY", most=255, **elements) -> Path:
    """A DICOM SEG: `frames` of (SOP Instance UID, segment number, pixels)."""
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = SegmentationStorage, uid(str(path)), "SEG"
    dataset.PatientID, dataset.SeriesInstanceUID = "CanaryPatient", uid("seg")
    dataset.SegmentationType, dataset.NumberOfFrames = kind, len(frames)
    dataset.Rows, dataset.Columns = frames[0][2].shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 1 if kind == "BINARY" else 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    if kind == "FRACTIONAL":
        dataset.MaximumFractionalValue = most
    dataset.SegmentSequence = [item(SegmentNumber=n) for n in sorted({number for _, number, _ in frames})]
    dataset.PerFrameFunctionalGroupsSequence = [_group(sop, number) for sop, number, _ in frames]
    pixels = np.stack([pixels for _, _, pixels in frames]).astype(np.uint8)
    dataset.PixelData = pack_bits(pixels) if bits == 1 else pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset["PixelData"].VR = "OB"
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _group(sop, number) -> Dataset:
    source = item(ReferencedSOPInstanceUID=sop) if isinstance(sop, str) else item(**sop)
    derived = item(SourceImageSequence=[source])
    identified = item(SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)])
    identified.DerivationImageSequence = [derived]
    return identified
