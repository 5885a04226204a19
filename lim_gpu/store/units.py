"""Limits in HU, and the body, which HU tell, meet HU alone: else slices that differ could become equal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
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
