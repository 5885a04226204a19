"""What is wrong with a volume, in words. The record itself is `VolumeHeader.defects`."""

from __future__ import annotations

from math import prod
from typing import Any

from lim_gpu.store.header import VolumeHeader

MARKS = {
    "no_position": "no slice has a position; in order of InstanceNumber",
    "no_affine": "no usable affine; axes as in a file without one",
    "derived": "derived images: made from others, so perhaps resampled or filtered. Give the originals where there are",
    "burned_in": "text is burned into the pixels",
    "assumed_hu": "no rescale; stored values taken for HU",
    "not_hu": "RescaleType is not HU",
    "turned": "pictures turned upright as their EXIF orientation says",
}
CLAMPED = 1e-3  # of all pixels: from there on it is said


def of_header(header: VolumeHeader) -> list[str]:
    """What is wrong with a volume of a store."""
    return list(sentences(header.defects, header.clamped / prod(header.shape)).values())


def sentences(defects: dict[str, Any], clamped: float) -> dict[str, str]:
    """Kind and words of each defect; `clamped` is the fraction of pixels that did not fit into int16."""
    found = {mark: text for mark, text in MARKS.items() if mark in defects}
    if gaps := defects.get("gaps"):
        widest = max(mm for _, mm in gaps)
        found["gaps"] = f"slices are missing, gaps: {len(gaps)}, the widest {widest:g} mm"
    if uneven := defects.get("uneven_spacing"):
        found["uneven_spacing"] = f"uneven spacing, {uneven['min']:g} to {uneven['max']:g} mm"
    if below := defects.get("below_air"):
        found["below_air"] = (
            f"{100 * below['share']:.1f} % of the pixels hold {below['hu']} HU, as padding that no tag names. "
            "It takes part of the grey range: --window, --hu-range or --body leave it out"
        )
    if tilt := defects.get("gantry_tilt"):
        found["gantry_tilt"] = f"gantry tilt, {tilt:g} degrees"
    if doubles := defects.get("duplicates"):
        found["duplicates"] = f"duplicated slices dropped: {doubles}"
    for element in defects.get("set_apart", []):
        found[f"set apart: {element}"] = f"overlaps slices of another {element}, which are a volume of their own"
    for element in defects.get("mixed", []):
        found[f"mixed: {element}"] = f"slices of different {element} lie between each other"
    for lost in defects.get("skipped_slices", []):
        found[f"skipped: {lost['cause']}"] = f"slices skipped: {lost['count']} ({lost['cause']})"
    if colour := defects.get("colour"):
        found["colour"] = f"colour pictures converted by luminance: {colour}"
    if transparent := defects.get("transparent"):
        found["transparent"] = f"pictures whose transparency was left out: {transparent}"
    if clamped > CLAMPED:
        found["clamped"] = f"{100 * clamped:.1f} % of the pixels clamped to int16"
    return found
