"""NIfTI files (.nii, .nii.gz): header checks, axes as displayed, slices one at a time. Runs in a child process.

nibabel stops reading before the CRC of a .nii.gz and takes a file with a wrong offset, so damaged files load without an
error. Here a compressed file is inflated to its end first, and the size of any file must be what its header says.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lim_gpu.ingest.geometry import Plane
from lim_gpu.ingest.records import Content, Counted, Decoded, Found, NiftiVolume, SourceError, to_int16
from lim_gpu.ingest.volume_plan import SliceSource, VolumePlan, patient_from_name
from lim_gpu.store.file import MAX_SIDE

if TYPE_CHECKING:
    from nibabel import Nifti1Header

MM = {1: 1000.0, 3: 0.001}  # of a metre and a micron, by the unit code; any other is taken for mm
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL
FINEST_SPAN = 32  # values with fractions that span less lose their meaning as whole numbers
GZIP = b"\x1f\x8b"
CHUNK = 2**20


def read_nifti(found: Found, label_map: bool = False) -> Content:
    """The volume in a NIfTI file. `Counted` for a label map that is not wanted, `SourceError` for what is unusable."""
    try:
        with open(found.path, "rb") as raw:
            compressed = raw.read(2) == GZIP
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
            header = _header(stream.read(540))
        if int(header["intent_code"]) == LABEL_INTENT and not label_map:
            return Counted("NIfTI label map")
        volume = _volume(found, header)
        if not compressed:
            _check_file_size(found.size, volume)
        return volume
    except SourceError as error:
        return error
    except (OSError, EOFError, zlib.error) as error:
        return SourceError("cannot be read", getattr(error, "strerror", None) or "the compressed data are damaged")
    except Exception as error:  # nibabel raises many kinds on damaged headers
        return SourceError("damaged NIfTI header", type(error).__name__)


def is_pair_header(path: str, head: bytes) -> bool:
    """Whether a file is the .hdr of a NIfTI or Analyze pair, whose .img holds the voxels."""
    return path.lower().endswith(".hdr") and head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c")  # sizeof_hdr, 348


def _header(block: bytes) -> Nifti1Header:
    from nibabel import Nifti1Header, Nifti2Header  # 0.2 s that only those who read NIfTI spend

    headers = {348: Nifti1Header, 540: Nifti2Header}  # by the size they state
    sizes = {int.from_bytes(block[:4], order): order for order in ("little", "big")}
    kind = next((headers[size] for size in sizes if size in headers), None)
    if kind is None or len(block) < kind.sizeof_hdr:
        raise SourceError("not NIfTI", f"{len(block)} bytes without a NIfTI header")
    header = kind(block[: kind.sizeof_hdr], check=False)
    if bytes(header["magic"])[:3] != kind.single_magic[:3]:
        raise SourceError("not NIfTI", "no single-file NIfTI. Join .hdr and .img to a .nii, as nibabel.save does")
    return header


def _volume(found: Found, header: Nifti1Header) -> NiftiVolume:
    shape = _three_dimensions(header)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise SourceError("unsupported NIfTI data type", f"code {int(header['datatype'])}. Convert it to int16")
    offset, least = float(header["vox_offset"]), header.single_vox_offset
    if not (offset == 0 or (offset >= least and offset == int(offset))):
        raise SourceError("damaged NIfTI header", f"vox_offset {offset:g} where at least {least} belongs")
    slope, intercept = header.get_slope_inter()  # (None, None) for a slope of 0, NaN or infinity: no scaling
    affine, marks = _affine(header, shape)
    axes, flips, placed = _as_displayed(affine, shape)
    return NiftiVolume(
        found=found,
        file_shape=shape,
        dtype=dtype.str,
        offset=int(offset) or least,
        scaling=None if slope is None or (slope, intercept) == (1, 0) else (float(slope), float(intercept)),
        axes=axes,
        flips=flips,
        affine=tuple(tuple(row) for row in placed.tolist()),
        marks=marks,
    )


def _three_dimensions(header: Nifti1Header) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : 1 + count]]
    if not 1 <= count <= 7 or any(size < 1 for size in sizes):
        raise SourceError("damaged NIfTI header", f"dimensions {sizes}")
    if any(size > 1 for size in sizes[3:]) or count < 2:
        raise SourceError(f"{count}-D NIfTI", f"dimensions {sizes}. Only 3-D is read: split it into volumes first")
    i, j, k = [*sizes, 1][:3]
    return i, j, k


def _affine(header: Nifti1Header, shape: tuple[int, int, int]) -> tuple[np.ndarray, frozenset[str]]:
    """Voxel (i, j, k) to RAS mm as nibabel has it (sform, else qform, else voxel sizes), and whether it can be used."""
    affine = header.get_best_affine()
    affine[:3] *= MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9:
        known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        return affine, frozenset() if known else frozenset({"no_affine"})
    plain = np.diag([-1.0, 1.0, 1.0, 1.0])  # nibabel's own for a file without an affine: i runs to the left
    plain[:3, 3] = -plain[:3, :3] @ ((np.array(shape) - 1) / 2)
    return plain, frozenset({"no_affine"})


def _as_displayed(
    affine: np.ndarray, shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], np.ndarray]:
    """Axes and flips to (slice, row, column) running to superior, posterior, left; affine (column, row, slice) -> LPS.

    That is how radiologists see an axial CT, and what DICOM gives: the patient's right on the left, front on top.
    """
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine)  # a row a file axis: nearest of R, A, S, and the sign
    right, front, up = (int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3))
    axes = (up, front, right)
    flips = (orientation[up, 1] < 0, orientation[front, 1] > 0, orientation[right, 1] > 0)
    placed = np.eye(4)
    placed[:3, 3] = affine[:3, 3]
    for target, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        step = affine[:3, axis]
        placed[:3, 2 - target] = -step if flip else step
        placed[:3, 3] += step * (shape[axis] - 1) if flip else 0
    placed[:2] *= -1  # RAS to LPS
    return axes, (bool(flips[0]), bool(flips[1]), bool(flips[2])), placed


def nifti_plan(volume: NiftiVolume, modality: str, patient_pattern: str | None) -> VolumePlan:
    """The plan of a NIfTI volume. NIfTI holds no modality: it is taken for what --modality says (any: unknown)."""
    found = volume.found
    n, rows, columns = volume.shape
    if max(rows, columns) > MAX_SIDE:
        raise SourceError("impossible size", f"{rows} x {columns}; at most {MAX_SIDE} x {MAX_SIDE}")
    affine = np.array(volume.affine)
    steps = np.linalg.norm(affine[:3, :3], axis=0)  # column, row, slice
    known = "no_affine" not in volume.marks
    directions = affine[:3, :2] / steps[:2]
    eight_bit = np.dtype(volume.dtype) == np.uint8 and volume.scaling is None
    name = found.name.removesuffix(".gz").removesuffix(".nii")
    return VolumePlan(
        kind="nifti",
        identity=f"nifti\0{found.name}",
        patient_identity=patient_from_name(name, patient_pattern),
        name=name,
        path=found.path,
        order=(found.order,),
        files=(found,),
        slices=tuple(SliceSource(found, i, "", tuple((affine[:3, 3] + i * affine[:3, 2]).tolist())) for i in range(n)),
        rows=rows,
        columns=columns,
        dtype="uint8" if eight_bit else "int16",
        unit="8-bit" if eight_bit else ("HU" if modality == "CT" else "stored"),
        plane=Plane(tuple(directions.T.ravel().tolist()), (steps[1], steps[0]) if known else None, float(steps[2])),
        modality="" if modality == "any" else modality,
        defects=dict.fromkeys(sorted(volume.marks), True),
        nifti=volume,
    )


def nifti_slices(volume: NiftiVolume, scratch: Path) -> Iterator[Decoded]:
    """The slices in order. A compressed file is inflated to an unnamed file in `scratch` first.

    Raises `SourceError`: damaged file, wrong size, NaN or infinity (after the last slice, with their count), values too
    fine for whole numbers.
    """
    with open(volume.found.path, "rb") as raw, tempfile.TemporaryFile(dir=scratch) as inflated:
        compressed = raw.read(2) == GZIP
        raw.seek(0)
        if compressed:
            _inflate(raw, inflated, volume)
        plain = inflated if compressed else raw
        _check_file_size(os.fstat(plain.fileno()).st_size, volume)
        voxels: np.ndarray = np.memmap(plain, volume.dtype, "r", volume.offset, volume.file_shape, "F")
        turned = voxels.transpose(volume.axes)[tuple(slice(None, None, -1 if flip else None) for flip in volume.flips)]
        yield from _decoded(turned, volume)


def _inflate(raw: BinaryIO, inflated: BinaryIO, volume: NiftiVolume) -> None:
    """Inflate to the end, so that the CRC is checked; stop at a stream that is longer than the header allows."""
    expected, written = _file_size(volume), 0
    try:
        with gzip.GzipFile(fileobj=raw) as stream:
            while chunk := stream.read(CHUNK):
                written += len(chunk)
                if written > expected + CHUNK:
                    raise SourceError("NIfTI size", f"more than the {expected} bytes that the header says")
                inflated.write(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise SourceError("damaged .gz", f"the data end or break after {written} bytes. Copy the file again") from None
    inflated.flush()


def _file_size(volume: NiftiVolume) -> int:
    i, j, k = volume.file_shape
    return volume.offset + i * j * k * np.dtype(volume.dtype).itemsize


def _check_file_size(size: int, volume: NiftiVolume) -> None:
    if size != _file_size(volume):
        raise SourceError("NIfTI size", f"{size} bytes where the header says {_file_size(volume)}. Copy the file again")


def _decoded(voxels: np.ndarray, volume: NiftiVolume) -> Iterator[Decoded]:
    whole, bad, low, high = True, 0, np.inf, -np.inf
    for plane in voxels:
        if plane.dtype == np.uint8 and volume.scaling is None:
            yield Decoded(np.ascontiguousarray(plane))
            continue
        values = plane.astype(np.float64)
        if volume.scaling is not None:
            values = values * volume.scaling[0] + volume.scaling[1]
        finite = np.isfinite(values)
        bad += int(finite.size - np.count_nonzero(finite))
        values[~finite] = 0
        low, high = min(low, values.min()), max(high, values.max())
        whole = whole and bool((values == np.rint(values)).all())
        yield Decoded(*to_int16(values))
    if bad:
        raise SourceError("NaN or infinity", f"{bad} voxels. Replace them first")
    if not whole and high - low < FINEST_SPAN:
        raise SourceError("values too fine", f"{low:g} to {high:g}; whole numbers would lose them. Scale them first")
