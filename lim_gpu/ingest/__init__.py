"""DICOM trees, NIfTI files and folders of PNG/JPEG into a store.

scan        the sources walked, every header read in child processes
dicom       one DICOM header to the frames it holds (part10: the file format; pixels: decoding and HU)
nifti       one NIfTI file; pictures: PNG and JPEG
series      frames to volumes: grouped, ordered, duplicates resolved (geometry: where slices lie)
planning    all that was scanned to planned volumes (plan: one of them, and its keys)
convert     one planned volume into the store, in a child process (schedule: all of them)
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import locked
from lim_gpu.ingest.convert import Settings, pixel_digests
from lim_gpu.ingest.plan import Keys, SliceSource, VolumePlan
from lim_gpu.ingest.planning import Planned, plan_volumes
from lim_gpu.ingest.records import Failure, Frame
from lim_gpu.ingest.report import IngestReport
from lim_gpu.ingest.scan import CHUNK, MEMORY, SECONDS, read_headers, walk
from lim_gpu.ingest.schedule import store_volumes
from lim_gpu.ingest.series import FrameId, frame_id
from lim_gpu.progress import Reporter
from lim_gpu.store import private_key, read_index, write_index
from lim_gpu.volume_file import COMPRESSIONS
from lim_gpu.workers import CONTEXT, run_in_children

__all__ = ["Failure", "IngestReport", "ingest"]

MODALITIES = ("CT", "MR", "PT", "any")
MOST_LINES = 3  # for one kind of defect
PRELOADED = ["lim_gpu.ingest.convert", "lim_gpu.ingest.dicom"]  # by the fork server: a child then starts in 5 ms
MOST_WORKERS = 16  # a child takes some 100 MB


def ingest(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    modality: str = "CT",
    skip_bad_slices: bool = False,
    keep_identifiers: bool = False,
    assume_hu: bool = False,
    compression: str | None = None,
    patient_pattern: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> IngestReport:
    """Read images below `sources` into the store at `output`: HU as int16, 8-bit images as uint8, slices in order.

    modality          DICOM images to take; the others are counted
    skip_bad_slices   a volume goes on without slices that cannot be used, and records the loss; else it fails
    keep_identifiers  readable names and plain hashes instead of keyed ones, for public collections
    assume_hu         CT without a rescale holds HU
    compression       None, "deflate", "zstd" or "lz4"
    patient_pattern   regular expression that finds the patient in a NIfTI or picture name
    workers           child processes; default: one a core, at most 16

    The same call again changes nothing, and goes on where an interrupted one stopped. Failures and defects are said
    through `reporter` as well. Raises UsageError for a contradiction or another store at `output` without `overwrite`,
    InputError when nothing can be taken, LimGpuError when the disk is full or another run writes there.
    """
    store, reporter = Path(output), reporter or Reporter(quiet=True)
    _check_call(sources, store, modality, compression, patient_pattern, workers)
    CONTEXT.set_forkserver_preload(PRELOADED)
    workers = workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    planned = _read(sources, store, modality, skip_bad_slices, assume_hu, patient_pattern, workers, reporter)
    parameters = {"modality": modality, "skip_bad_slices": skip_bad_slices, "keep_identifiers": keep_identifiers}
    parameters |= {"assume_hu": assume_hu, "compression": compression}
    report = IngestReport(store, counted=dict(planned.counted), failures=planned.failures, dry_run=dry_run)
    if dry_run:
        plans = Keys(secrets.token_bytes(32)).complete(planned.volumes, parameters)
        report.planned = [(plan.label, plan.shape) for plan in plans]
        report.slices = sum(len(plan.slices) for plan in plans)
        return report
    with locked(store):
        keys = Keys(None if keep_identifiers else private_key(store))
        plans = keys.complete(planned.volumes, parameters | {"patient_pattern": patient_pattern})
        settings = Settings(store, assume_hu, skip_bad_slices, keep_identifiers, compression)
        _write(plans, settings, parameters, keys, overwrite, workers, report, reporter)
    return report


def _check_call(
    sources: Sequence[str | Path],
    store: Path,
    modality: str,
    compression: str | None,
    patient_pattern: str | None,
    workers: int | None,
) -> None:
    if not sources:
        raise UsageError("ingest: no source. Give a folder or a file")
    if modality not in MODALITIES:
        raise UsageError(f"--modality {modality}: unknown. Give one of {', '.join(MODALITIES)}")
    if compression is not None and compression not in COMPRESSIONS:
        raise UsageError(f"--compression {compression}: unknown. Give one of none, {', '.join(COMPRESSIONS)}")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    try:
        re.compile(patient_pattern or "")
    except re.error as error:
        raise UsageError(f"--patient-pattern {patient_pattern!r}: no regular expression ({error})") from None
    if store.exists() and not store.is_dir():
        raise UsageError(f"{store}: is a file. Choose another -o")
    names = {path.name for path in store.iterdir()} if store.exists() else set()
    if names and not names & {"store.json", "volumes", ".lock"}:
        raise UsageError(f"{store}: holds other files. Choose another -o")


def _read(
    sources: Sequence[str | Path],
    store: Path,
    modality: str,
    skip_bad_slices: bool,
    assume_hu: bool,
    patient_pattern: str | None,
    workers: int,
    reporter: Reporter,
) -> Planned:
    """Walk, scan and plan. Raises InputError when there is no volume in it."""
    private = Path(f"{store.resolve()}.private")
    walked = walk(sources, leave_out=[store, private])
    with reporter.track("read headers", len(walked.files), "files") as advance:
        scanned = read_headers(walked.files, modality, assume_hu, workers, advance)

    def digests(frames: Sequence[Frame]) -> Mapping[FrameId, str]:
        return _digests(frames, assume_hu, workers)

    planned = plan_volumes(scanned, modality, skip_bad_slices, patient_pattern, digests)
    planned.counted += walked.counted
    planned.failures[:0] = walked.failures
    for failure in planned.failures:
        reporter.error(failure)
    if not planned.volumes:
        counts = [f"{count} {kind}" for kind, count in sorted(planned.counted.items())]
        counts += [f"{len(planned.failures)} failed"] if planned.failures else []
        places = ", ".join(str(source) for source in sources)
        remedy = "" if planned.failures else ". Give DICOM, NIfTI, PNG or JPEG files, or another --modality"
        raise InputError(f"{places}: no volume in it ({', '.join(counts) or 'no file'}){remedy}")
    return planned


def _digests(frames: Sequence[Frame], assume_hu: bool, workers: int) -> dict[FrameId, str]:
    """Digests of the pixels of colliding frames; a frame that cannot be decoded has none."""
    chunks = [frames[i : i + CHUNK] for i in range(0, len(frames), CHUNK)]
    tasks = [
        ([SliceSource(f.instance.found.path, f.index, f.instance.sop) for f in chunk], assume_hu) for chunk in chunks
    ]
    result: dict[FrameId, str] = {}
    for outcome in run_in_children(pixel_digests, tasks, workers=workers, timeout=SECONDS, memory_limit=MEMORY):
        for frame, digest in zip(chunks[outcome.task], outcome.value or [], strict=False):
            result[frame_id(frame)] = digest
    return result


def _write(
    plans: Sequence[VolumePlan],
    settings: Settings,
    parameters: dict[str, Any],
    keys: Keys,
    overwrite: bool,
    workers: int,
    report: IngestReport,
    reporter: Reporter,
) -> None:
    store = settings.store
    origin = keys.digest("store", *(part for plan in plans for part in (plan.key, plan.fingerprint)))
    before = read_index(store) if (store / "store.json").exists() else None
    if before is not None and before.origin != origin and not overwrite:
        raise UsageError(
            f"{store}: holds a store of other sources or options. Give --overwrite (equal volumes stay), or another -o"
        )
    stored = store_volumes(plans, settings, workers, reporter)
    for failure in stored.failures:
        reporter.error(failure)
    _say_defects(stored.defects, reporter)
    report.failures += stored.failures
    report.defects = [(volume, text) for volume, _kind, text in stored.defects]
    if not stored.entries:
        raise InputError(f"{store}: no volume could be read, {len(report.failures)} failed")
    entries = [stored.entries[plan.key] for plan in plans if plan.key in stored.entries]
    report.written, report.reused = stored.written, len(entries) - stored.written
    report.slices = sum(entry.shape[0] for entry in entries)
    skipped = report.counted | ({"failed": len(report.failures)} if report.failures else {})
    same = before is not None and (list(before.volumes), before.origin, before.skipped) == (entries, origin, skipped)
    report.unchanged = same and not stored.written
    if not report.unchanged:
        write_index(store, entries, parameters, skipped, origin)


def _say_defects(defects: Sequence[tuple[str, str, str]], reporter: Reporter) -> None:
    """A line for each defect, and one for those of a kind that many volumes have."""
    kinds: dict[str, list[str]] = {}
    for volume, kind, text in defects:
        kinds.setdefault(kind, []).append(f"{volume}: {text}")
    for lines in kinds.values():
        for line in lines[:MOST_LINES]:
            reporter.warn(line)
        if len(lines) > MOST_LINES:
            reporter.warn(f"... and {len(lines) - MOST_LINES} volumes more")
