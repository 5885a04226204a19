"""Limits in HU, and the body, which HU tell, meet HU alone: else slices that differ could become equal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.intensity import AS_STORED, Intensity
from lim_gpu.progress import counted
from lim_gpu.store.volume import VolumeEntry


def check_limits(source: Path, volumes: Iterable[VolumeEntry], intensity: Intensity) -> str:
    """What to say of mapping `volumes` to 0..255: that limits leave 8-bit ones as they are; else "".

    Raises UsageError, naming `source` and the remedy, where limits in HU would meet values that are no HU.
    """
    if intensity.limits is None and not intensity.body:
        return ""
    entries = list(volumes)
    others = [entry for entry in entries if not entry.holds_hu]
    stored = [entry for entry in others if entry.dtype != "uint8"]
    if not stored:
        if intensity.body and others and len(others) == len(entries):
            raise UsageError(f"{source}: no HU in any volume, by which `body` is found. Leave it out")
        told = f"grey values, not HU, in {counted(len(others), 'volume')}: taken as they are, without window and body"
        return told if others else ""
    kinds = ", ".join(sorted({entry.modality or "no modality" for entry in stored}))
    text = f"no HU in {counted(len(stored), 'volume')} ({kinds}). Leave `window`, `hu_range` and `body` out, or give "
    text += "`intensity` volume-percentile"
    if any(not entry.modality for entry in stored):
        text += ", or give `lim-gpu ingest --assume-hu` where 16-bit pictures hold HU + 32768"
    raise UsageError(f"{source}: {text}")


def intensities(volumes: Iterable[VolumeEntry], intensity: Intensity) -> list[dict[str, Any]]:
    """For a record: what was done to which volumes, where 8-bit ones stayed as they are; else []."""
    keys: dict[bool, list[str]] = {}
    for entry in volumes:
        keys.setdefault(entry.dtype == "uint8", []).append(entry.key)
    if True not in keys:
        return []
    mapped = [intensity.describe() | {"volumes": keys[False]}] if False in keys else []
    return [*mapped, {"mapping": AS_STORED, "volumes": keys[True]}]


def intensities_in_words(volumes: Iterable[VolumeEntry], intensity: Intensity) -> str:
    """The same for a caption."""
    eight_bit = {entry.dtype == "uint8" for entry in volumes}
    if eight_bit == {True}:
        return "grey values as they are"
    return intensity.in_words + ("; 8-bit volumes as they are" if True in eight_bit else "")
