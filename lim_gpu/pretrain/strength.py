"""One factor for the strength of an augmentation, to set it against how much a data set is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCALED = {  # of each method: what a factor multiplies, and the ranges of areas whose crops it makes smaller
    "swav": (("brightness", "contrast", "blur_sigma"), ("large_scale", "small_scale")),
    "moco": (("brightness", "contrast", "blur_sigma"), ("scale",)),
}
SMALLEST = 0.02  # of the area of a slice


def at_strength(strength: float, settings: Mapping[str, Any], section: str) -> dict[str, Any]:
    """What `strength` makes of the settings of a method; 1 leaves them as they are, to the bit.

    brightness, contrast and blur_sigma are multiplied by it; a crop takes at least 1 - strength (1 - smallest) of a
    slice, but SMALLEST, and never more than its largest.
    """
    if strength == 1:
        return {}
    multiplied, areas = SCALED[section]
    found: dict[str, Any] = {}
    for name in multiplied:
        value = settings[name]
        found[name] = tuple(strength * end for end in value) if isinstance(value, tuple) else strength * value
    for name in areas:
        low, high = settings[name]
        found[name] = (min(max(1 - strength * (1 - low), min(low, SMALLEST)), high), high)
    return found
