"""One volume from its sources into the store. Runs in a child process, which a damaged stream may take down alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lim_gpu.ingest.failures import SKIPPABLE, SKIPPED, Failure, name_bad_files
from lim_gpu.ingest.geometry import place
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import AIR, SourceError
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.shares import DecodedShare, joined
from lim_gpu.ingest.slices import decoded_slices
from lim_gpu.ingest.volume_plan import VolumePlan
from lim_gpu.store.header import VolumeHeader
from lim_gpu.store.private import write_sources
from lim_gpu.store.writer import VolumeWriter
from lim_gpu.workers import tick

BELOW_AIR = 0.01  # of the pixels: noise below -1024 HU is less, and spread over values


@dataclass(frozen=True)
class Converted:
    """A volume in the store (no header: it failed), and the sources of slices that are not in it."""

    header: VolumeHeader | None
    digest: str
    failures: list[Failure]


def convert(plan: VolumePlan, settings: Settings, shares: Sequence[DecodedShare] = ()) -> Converted:
    """Write the volume, its slices one at a time, and the private list of its sources.

    shares: slices that were decoded before: all of them, in order; else they are decoded here.

    The volume fails on a bad slice; with `skip_bad_slices` it goes on without and records the loss. Either way all bad
    slices are found.
    """
    silence()
    plan = plan.unpacked()
    counts: Counter[str] = Counter()
    lowest: Counter[int] = Counter()
    bad: list[tuple[int, SourceError]] = []
    try:
        folder = settings.store / "volumes"
        with VolumeWriter(folder, plan.key, *plan.shape, plan.dtype, settings.compression) as writer:
            for index, decoded in enumerate(joined(shares, plan) if shares else decoded_slices(plan, settings)):
                tick()
                if isinstance(decoded, SourceError):
                    bad.append((index, decoded))
                elif settings.skip_bad_slices or not bad:
                    writer.append(decoded.pixels)
                    counts += decoded.counts
                    if plan.unit == "HU":
                        lowest += _lowest(decoded.pixels)
            return _finish(writer, _noted(plan, lowest), settings, counts, bad)
    except SourceError as error:
        return Converted(None, "", [Failure(plan.path, str(error))])


def _lowest(pixels: np.ndarray) -> Counter[int]:
    """How many pixels of a slice hold its lowest value, where that lies below air."""
    lowest = int(pixels.min())
    return Counter({lowest: int(np.count_nonzero(pixels == lowest))} if lowest < AIR else {})


def _noted(plan: VolumePlan, lowest: Counter[int]) -> VolumePlan:
    """The plan with the value below air that many pixels hold as a defect: padding that no tag names."""
    n, rows, columns = plan.shape
    (value, count), *_ = [*lowest.most_common(1), (0, 0)]
    if count <= BELOW_AIR * n * rows * columns:
        return plan
    share = count / (n * rows * columns)
    return replace(plan, defects=plan.defects | {"below_air": {"hu": value, "pixels": count, "share": share}})


def _finish(
    writer: VolumeWriter,
    plan: VolumePlan,
    settings: Settings,
    counts: Counter[str],
    bad: list[tuple[int, SourceError]],
) -> Converted:
    skipping = settings.skip_bad_slices and len(bad) < len(plan.slices)
    lost = [(plan.slices[index].path, error) for index, error in bad]
    failures = name_bad_files(lost, len(plan.files), SKIPPED if skipping else SKIPPABLE)
    if bad and not skipping:
        return Converted(None, "", failures)
    rest = plan.without([(index, error.cause) for index, error in bad]) if bad else plan
    header, z = _header(rest, counts, settings.keep_identifiers)
    write_sources(settings.store, plan.key, [source.row() for source in rest.slices])
    return Converted(header, writer.finish(header, z), failures)


def _header(plan: VolumePlan, counts: Counter[str], keep_identifiers: bool) -> tuple[VolumeHeader, np.ndarray]:
    placement = place(plan.plane, [s.position for s in plan.slices], [s.thickness for s in plan.slices])
    seen: dict[str, Any] = {kind: counts[kind] for kind in ("colour", "transparent") if counts[kind]}
    header = VolumeHeader(
        key=plan.key,
        patient=plan.patient,
        name=plan.name if keep_identifiers else "",
        source=plan.kind,
        modality=plan.modality,
        shape=plan.shape,
        dtype=plan.dtype,
        unit=plan.unit,
        spacing=placement.spacing,
        affine=placement.affine,
        orientation=placement.orientation,
        photometric=plan.photometric,
        transfer_syntax=plan.transfer_syntax,
        padding=counts["padding"],
        clamped=counts["clamped"],
        defects=plan.defects | (placement.defects if plan.kind != "image" else {}) | seen,
        fingerprint=plan.fingerprint,
    )
    return header, np.array(placement.z, dtype=np.float64)
