"""Folders of PNG and JPEG files: a folder, or the names with one prefix before `_<number>`, is a volume.

Runs in a child process.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any

from PIL import Image

from lim_gpu.ingest.geometry import Plane
from lim_gpu.ingest.packed import PackedGroups
from lim_gpu.ingest.records import Content, Found, Picture, SourceError
from lim_gpu.ingest.volume_plan import SliceSource, VolumePlan, patient_from_name
from lim_gpu.pictures import FORMATS, OFFSET_16, SIGNATURES, orientation, reason
from lim_gpu.store.file import MAX_SIDE

NUMBERED = re.compile(r"(.+)_[0-9]+")
GREY = 0  # PNG colour type
LOOSE = 1024  # pictures that wait to be packed at once


def read_picture(found: Found) -> Content:
    """Size and depth of a PNG or JPEG file, without its pixels."""
    try:
        with open(found.path, "rb") as file:
            head = file.read(26)
            sixteen_bit = _is_sixteen_bit(head)
            with Image.open(file, formats=FORMATS) as image:
                turned = orientation(image)
                rows, columns = image.size if turned >= 5 else image.size[::-1]
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise SourceError("animated picture", f"{frames} frames. Split it into files")
    except SourceError as error:
        return error
    except Image.DecompressionBombError:
        return SourceError("impossible size", f"at most {MAX_SIDE} x {MAX_SIDE}")
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        return SourceError("damaged picture", reason(error))
    if max(rows, columns) > MAX_SIDE:
        return SourceError("impossible size", f"{rows} x {columns}; at most {MAX_SIDE} x {MAX_SIDE}")
    return Picture(found, rows, columns, sixteen_bit, turned > 1)


def _is_sixteen_bit(head: bytes) -> bool:
    if not head.startswith(SIGNATURES[0]) or len(head) < 26:
        return False
    depth, colour = struct.unpack("BB", head[24:26])
    if depth == 16 and colour != GREY:
        raise SourceError("16-bit colour", "Pillow reads 8 of its 16 bits. Convert it to 16-bit grey")
    return depth == 16


def picture_plans(
    pictures: Iterable[Picture], patient_pattern: str | None, assume_hu: bool = False
) -> tuple[list[VolumePlan], list[tuple[Found, SourceError]]]:
    """Group pictures by folder or prefix, size and depth, and by patient where a pattern finds one in their names.

    Each group is in the natural order of the names. `assume_hu`: 16-bit ones hold HU + 32768, as DeepLesion's. Plans
    are packed. Returns files that are in none, too.
    """
    groups: PackedGroups[tuple[str, str, int, int, bool], Picture] = PackedGroups(LOOSE)
    plans, failed = [], []
    for picture in pictures:
        name = volume_name(picture.found.name)
        try:
            patient = patient_from_name(picture.found.name if patient_pattern else name, patient_pattern)
        except SourceError as error:
            failed.append((picture.found, error))
            continue
        key = (name, patient, picture.rows, picture.columns, picture.sixteen_bit)
        groups.extend(key, [picture])
    for (name, patient, *_), group in groups.let_go():
        plan = _plan(name, patient, group, assume_hu)
        try:
            plan.check_size()
            plans.append(plan.packed())
        except SourceError as error:
            failed.append((group[0].found, error))
    return plans, failed


def volume_name(name: str) -> str:
    """The volume of a picture: `folder/prefix` for `folder/prefix_12.png`, `folder` for any other name."""
    folder, _, file = name.rpartition("/")
    numbered = NUMBERED.fullmatch(file.rpartition(".")[0] or file)
    return (f"{folder}/{numbered[1]}" if folder else numbered[1]) if numbered else folder or file


def _plan(name: str, patient: str, group: list[Picture], assume_hu: bool) -> VolumePlan:
    first = group[0]
    hounsfield = assume_hu and first.sixteen_bit
    defects: dict[str, Any] = {"offset": OFFSET_16} if first.sixteen_bit else {}
    if any(picture.turned for picture in group):
        defects["turned"] = True
    if hounsfield:
        defects["assumed_hu"] = True
    size = f"{first.rows} x {first.columns}" + (", 16 bit" if first.sixteen_bit else "")
    return VolumePlan(
        kind="image",
        identity=f"image\0{name}\0{patient}\0{size}",
        patient_identity=patient,
        name=name,
        path=volume_name(first.found.path),
        order=(first.found.order,),
        files=tuple(picture.found for picture in group),
        slices=tuple(SliceSource(picture.found) for picture in group),
        rows=first.rows,
        columns=first.columns,
        dtype="int16" if first.sixteen_bit else "uint8",
        unit="HU" if hounsfield else ("16-bit" if first.sixteen_bit else "8-bit"),
        modality="CT" if hounsfield else "",
        plane=Plane(None, None, None),
        defects=defects,
    )
