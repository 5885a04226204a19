"""What becomes one volume of the store: its slices in order, its place in space, its keys without patient data."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lim_gpu.files import canonical_json
from lim_gpu.ingest.geometry import Plane, Vector
from lim_gpu.ingest.packed import Packed
from lim_gpu.ingest.records import Found, Frame, NiftiVolume, Record, Rescale, SourceError, StoredPixels
from lim_gpu.store.file import MAX_BYTES, MAX_SLICES

VERSION = 1  # of what ingest does to pixels; part of every fingerprint


@dataclass(frozen=True, slots=True)
class SliceSource(Record):
    """Where one slice comes from: a file, a frame in it, its SOP Instance UID, the position of its first voxel.

    thickness: mm, where it is known. Of DICOM, pixels: where the file has them; rescale: to HU.
    """

    found: Found
    frame: int = 0
    sop: str = ""
    position: Vector | None = None
    thickness: float | None = None
    pixels: StoredPixels | None = None
    rescale: Rescale | None = None

    @staticmethod
    def of(frame: Frame) -> SliceSource:
        """The source of a DICOM slice."""
        i = frame.instance
        return SliceSource(i.found, frame.index, i.sop, frame.position, frame.thickness, i.pixels, frame.rescale)

    @property
    def path(self) -> str:
        """The file."""
        return self.found.path

    def row(self) -> dict[str, Any]:
        """The slice's row in the private list of sources."""
        return {"path": self.path, "sop_uid": self.sop, "frame": self.frame}


@dataclass(frozen=True)
class VolumePlan:
    """One volume before its pixels are read.

    `identity`, `patient_identity` and `name` may name a patient: they are hashed, or stored with --keep-identifiers.
    `path` is for messages. `order` sorts volumes by the natural order of their sources.
    """

    kind: str  # "dicom", "nifti" or "image"
    identity: str
    patient_identity: str
    name: str
    path: str
    order: tuple[int, ...]
    files: Sequence[Found]
    slices: Sequence[SliceSource]
    rows: int
    columns: int
    dtype: str
    unit: str
    plane: Plane
    modality: str = ""
    photometric: str = ""
    transfer_syntax: str = ""
    defects: dict[str, Any] = field(default_factory=dict)
    nifti: NiftiVolume | None = None
    key: str = ""
    patient: str = ""
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.slices), self.rows, self.columns

    @property
    def label(self) -> str:
        """The volume for people."""
        return f"{self.path} ({len(self.slices)} x {self.rows} x {self.columns})"

    @property
    def size(self) -> int:
        """Bytes of pixels."""
        n, rows, columns = self.shape
        return n * rows * columns * (1 if self.dtype == "uint8" else 2)

    def check_size(self) -> None:
        """Raise `SourceError` for a volume beyond the limits."""
        if len(self.slices) > MAX_SLICES or self.size > MAX_BYTES:
            limit = f"at most {MAX_SLICES} slices and {MAX_BYTES >> 30} GiB are read"
            raise SourceError("impossible size", f"{len(self.slices)} slices, {self.size / 2**30:.1f} GiB; {limit}")

    def packed(self) -> VolumePlan:
        """The same, to wait for its turn among many."""
        return replace(self, files=Packed(self.files), slices=Packed(self.slices))

    def unpacked(self) -> VolumePlan:
        """The same, to be gone through in any way."""
        return replace(self, files=tuple(self.files), slices=tuple(self.slices))

    def unnamed(self, keep_name: bool) -> VolumePlan:
        """The volume without its identities, and without its name unless that stands in the store."""
        return replace(self, identity="", patient_identity="", name=self.name if keep_name else "")

    def without(self, lost: Sequence[tuple[int, str]]) -> VolumePlan:
        """The volume without the slices (index, cause) in `lost`; the causes are recorded as defects."""
        gone = {index for index, _ in lost}
        kept = tuple(s for i, s in enumerate(self.slices) if i not in gone)
        skipped = skipped_slices(self.defects.get("skipped_slices", []), (cause for _, cause in lost))
        return replace(self, slices=kept, defects=self.defects | {"skipped_slices": skipped})


def skipped_slices(before: list[dict[str, Any]], causes: Iterable[str]) -> list[dict[str, Any]]:
    """The defect record of slices left out, a row a cause, after adding `causes` to it."""
    counts = {row["cause"]: row["count"] for row in before}
    for cause in causes:
        counts[cause] = counts.get(cause, 0) + 1
    return [{"cause": cause, "count": count} for cause, count in sorted(counts.items())]


@dataclass(frozen=True)
class Keys:
    """Turns identities into keys: HMAC-SHA256 with the store's private key, or plain SHA-256 where `secret` is None.

    Plain hashes of patient numbers can be guessed (all seven-digit numbers in seconds), so they are only for public
    collections, where keys shall be the same everywhere.
    """

    secret: bytes | None

    def digest(self, *parts: str) -> str:
        """64 hex digits."""
        message = "\0".join(parts).encode("utf-8", "surrogateescape")
        if self.secret is None:
            return hashlib.sha256(message).hexdigest()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()

    def complete(self, plans: Iterable[VolumePlan], parameters: dict[str, Any]) -> list[VolumePlan]:
        """Order the volumes and give each its key, its patient's and its fingerprint; equal ones are numbered."""
        settings = canonical_json({"version": VERSION} | parameters)
        seen: Counter[tuple[str, str]] = Counter()
        result = []
        for plan in sorted(plans, key=lambda plan: plan.order):
            seen.update([("identity", plan.identity), ("name", plan.name)])
            same, namesakes = seen["identity", plan.identity], seen["name", plan.name]
            unique = plan.identity if same == 1 else f"{plan.identity}\0{same}"
            files = [[f.name, f.size, f.mtime_ns] for f in plan.files]
            frames = [[s.frame, s.sop, s.position] for s in plan.slices]
            content = canonical_json([files, frames, plan.shape, plan.dtype, plan.defects])
            result.append(
                replace(
                    plan,
                    name=plan.name if namesakes == 1 else f"{plan.name} ({namesakes})",
                    key=self.digest("volume", unique)[:16],
                    patient=self.digest("patient", plan.patient_identity)[:16],
                    fingerprint=self.digest("fingerprint", settings, content),
                )
            )
        return result


def patient_from_name(name: str, pattern: str | None) -> str:
    """The patient of a NIfTI or PNG volume: the first group of `pattern` (else its whole match) in `name`, else `name`.

    Raises `SourceError` where the pattern does not match: to guess would mix patients up.
    """
    if pattern is None:
        return name
    match = re.search(pattern, name)
    if match is None:
        raise SourceError("no patient in the name", "--patient-pattern does not match. Change the pattern")
    return match.group(1) if match.groups() and match.group(1) is not None else match.group()
