"""What a volume file says of its volume, as one strict piece of JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.files import canonical_json, parse_json

KEY = re.compile(r"[0-9a-f]{16}\Z")
DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "uint8": np.dtype("u1")}
UNEVEN = 0.01  # of the median step, or mm: more is recorded, as at ingest


@dataclass(frozen=True)
class VolumeHeader:
    """Everything about a volume but its pixels. No name, date or identifier of a patient.

    key, patient     16 hex digits, keyed hashes (plain ones with --keep-identifiers)
    name             a readable name with --keep-identifiers, else ""
    source           "dicom", "nifti" or "image"
    modality         "CT", "MR", "PT", ...; "" for images
    shape, dtype     (n, H, W); "int16" or "uint8"
    unit             "HU", "stored", "8-bit" or "16-bit"
    spacing          mm between slices, rows, columns; None where unknown
    affine           4 x 4, voxel (column, row, slice) to LPS mm; None where unknown
    orientation      "axial", "coronal", "sagittal", "oblique" or ""
    photometric      "MONOCHROME2", "MONOCHROME1" (values not inverted) or ""
    transfer_syntax  its name, "" if none
    padding, clamped pixels set to -1024 HU, pixels clamped to int16
    defects          what is wrong with the geometry or the source, by name
    fingerprint      of the source files and of what changes pixels
    selected_from    digest of the volume that the slices were selected from, else ""
    """

    key: str
    patient: str
    name: str
    source: str
    modality: str
    shape: tuple[int, int, int]
    dtype: str
    unit: str
    spacing: tuple[float, float, float] | None
    affine: list[list[float]] | None
    orientation: str
    photometric: str
    transfer_syntax: str
    padding: int
    clamped: int
    defects: dict[str, Any]
    fingerprint: str
    selected_from: str = ""

    def to_json(self) -> bytes:
        """Canonical, so that equal headers are equal bytes."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes, path: Path) -> VolumeHeader:
        """Raises InputError, naming `path`, for anything that `to_json` does not write."""
        try:
            values = parse_json(text.decode("utf-8"), path)
        except UnicodeDecodeError:
            raise InputError(f"{path}: the header is no text") from None
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise InputError(f"{path}: the header has other fields")
        wrong = [name for name, value in values.items() if not _HEADER_CHECKS[name](value)]
        if wrong:
            raise InputError(f"{path}: header field {wrong[0]} is ill-formed")
        for name in ("shape", "spacing"):
            values[name] = tuple(values[name]) if values[name] is not None else None
        return cls(**values)

    def selected(self, kept: Sequence[int], z: NDArray[np.float64], digest: str, fingerprint: str) -> VolumeHeader:
        """The header of the slices `kept`, ascending, of the volume `digest` with positions `z` (n,).

        Spacing and affine become those of the median step between kept slices; gaps become uneven spacing. `affine` is
        that of row x column x the way from slice to slice, as ingest makes it.
        """
        header = replace(
            self,
            shape=(len(kept), *self.shape[1:]),
            defects={name: value for name, value in self.defects.items() if name not in ("gaps", "uneven_spacing")},
            fingerprint=fingerprint,
            selected_from=digest,
        )
        if self.spacing is None or self.affine is None:
            return header
        steps = np.diff(z[kept])
        step = float(np.median(steps)) if len(kept) > 1 else self.spacing[0]
        if np.abs(steps - step).max(initial=0) > max(UNEVEN * step, UNEVEN):
            extremes = {"min": round(float(steps.min()), 3), "max": round(float(steps.max()), 3)}
            header.defects["uneven_spacing"] = extremes
        affine = np.array(self.affine)
        direction = affine[:3, 2] / self.spacing[0]  # the way along which z grows by 1 mm
        affine[:3, 3] += direction * (z[kept[0]] - z[0])
        affine[:3, 2] = direction * step
        return replace(header, spacing=(step, *self.spacing[1:]), affine=affine.tolist())


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and bool(KEY.match(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(item) in (int, float) for item in value)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_row(row, 4) for row in value)


_HEADER_CHECKS: dict[str, Any] = {
    **dict.fromkeys(("key", "patient"), _is_key),
    **dict.fromkeys(("name", "source", "modality", "unit", "orientation", "photometric"), _is_text),
    **dict.fromkeys(("transfer_syntax", "fingerprint", "selected_from"), _is_text),
    **dict.fromkeys(("padding", "clamped"), _is_count),
    "shape": lambda value: _is_row(value, 3) and all(_is_count(item) for item in value),
    "dtype": lambda value: isinstance(value, str) and value in DTYPES,
    "spacing": lambda value: value is None or _is_row(value, 3),
    "affine": lambda value: value is None or _is_matrix(value),
    "defects": lambda value: isinstance(value, dict),
}
