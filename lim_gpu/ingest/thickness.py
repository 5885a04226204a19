"""Volumes of thin slices alone: which of those planned are kept."""

from __future__ import annotations

from collections.abc import Sequence

from lim_gpu.ingest.geometry import place
from lim_gpu.ingest.volume_plan import VolumePlan
from lim_gpu.progress import Reporter, counted


def of_thin_slices(
    volumes: Sequence[VolumePlan], most_mm: float, reporter: Reporter
) -> tuple[list[VolumePlan], dict[str, int]]:
    """The volumes whose slices are at most `most_mm` thick, and how many others there are, by what speaks against them.

    The thickest slice counts. Where none states its thickness the distance between slices does, which is said; a volume
    that tells neither is left out.
    """
    stated = [_stated(plan) for plan in volumes]
    thick = [_spacing(plan) if mm is None else mm for plan, mm in zip(volumes, stated, strict=True)]
    if judged := sum(mm is None and used is not None for mm, used in zip(stated, thick, strict=True)):
        reporter.warn(f"{counted(judged, 'volume')} without a slice thickness: the distance between slices counts")
    kept = [plan for plan, mm in zip(volumes, thick, strict=True) if mm is not None and mm <= most_mm]
    found = {"of unknown thickness": thick.count(None)}
    found[f"thicker than {most_mm:g} mm"] = len(thick) - thick.count(None) - len(kept)
    return kept, {f"volumes {kind}": count for kind, count in found.items() if count}


def _stated(plan: VolumePlan) -> float | None:
    stated = [one.thickness for one in plan.slices if one.thickness is not None]
    return max(stated, default=plan.plane.thickness)


def _spacing(plan: VolumePlan) -> float | None:
    if plan.kind == "image":
        return None
    found = place(plan.plane, [one.position for one in plan.slices]).spacing
    return found[0] if found is not None else None
