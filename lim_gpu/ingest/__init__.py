"""DICOM trees, NIfTI files and folders of PNG/JPEG into a store.

scan        the sources walked, every header read in child processes (quiet: they say nothing of their own)
dicom       one DICOM header to the frames it holds
opening     a DICOM file (part10), its header by a walk where it is plain (elements), else by pydicom (parsed)
pixels      decoding (syntaxes: by which plugin) and HU (hounsfield)
nifti       one NIfTI file; pictures: PNG and JPEG
packed      what waits among millions, compressed
series      frames to volumes: grouped, ordered, duplicates resolved (geometry: where slices lie)
assemble    all that was scanned to planned volumes (volume_plan: one of them, and its keys)
slices      the slices of a planned volume, decoded (shares: by several children)
convert     one planned volume into the store, in a child process (convert_all: all of them)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from lim_gpu.cluster import Cluster, connect, run_on_cluster
from lim_gpu.errors import InputError, UsageError, unwritable
from lim_gpu.files import locked
from lim_gpu.ingest.assemble import Planned, plan_volumes
from lim_gpu.ingest.convert_all import store_volumes
from lim_gpu.ingest.failures import Failure
from lim_gpu.ingest.records import Frame
from lim_gpu.ingest.report import IngestReport, passed_by
from lim_gpu.ingest.scan import CHUNK, MEMORY, SECONDS, read_headers, walk
from lim_gpu.ingest.series import FrameId, frame_id
from lim_gpu.ingest.settings import Settings, default_workers
from lim_gpu.ingest.slices import pixel_digests
from lim_gpu.ingest.thickness import of_thin_slices
from lim_gpu.ingest.volume_plan import Keys, SliceSource, VolumePlan
from lim_gpu.progress import Reporter
from lim_gpu.shard import Shard
from lim_gpu.sharing import sign_in
from lim_gpu.store.private import private_key
from lim_gpu.store.slices import Index, check_count, read_index, remove_unlisted, write_index
from lim_gpu.workers import Runner, run_in_children, start_server

__all__ = ["Failure", "IngestReport", "ingest"]

MOST_LINES = 3  # for one kind of defect


def ingest(
    sources: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    modality: str = "CT",
    skip_bad_slices: bool = False,
    keep_identifiers: bool = False,
    assume_hu: bool = False,
    compression: str | None = None,
    patient_pattern: str | None = None,
    max_thickness: float | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    ray: str | None = None,
    cpus_per_task: int | None = None,
    shard: str | None = None,
    reporter: Reporter | None = None,
) -> IngestReport:
    """Read images below `sources` into the store at `output`: HU as int16, 8-bit images as uint8, slices in order.

    modality          DICOM images to take; the others are counted
    skip_bad_slices   a volume goes on without slices that cannot be used, and records the loss; else it fails
    keep_identifiers  readable names and plain hashes instead of keyed ones, for public collections
    assume_hu         CT without a rescale holds HU, 16-bit pictures HU + 32768
    compression       None, "deflate", "zstd" or "lz4"
    patient_pattern   regular expression that finds the patient in a NIfTI or picture name
    max_thickness     mm: volumes of thicker slices are left out and counted; without a thickness their distance counts
    workers           child processes; default: one a core, at most 16
    ray               the hosts of a Ray cluster read and convert: "auto", "local" or "HOST:PORT"; all see the sources
                      and `output` at the same place. cpus_per_task: child processes of each process there, 1 by default
    shard             "I/N": only every N-th volume, as others convert the rest at the same time; the same call without
                      it then makes the store of what they have written

    The same call again changes nothing, and goes on where an interrupted one stopped. Failures and defects are said
    through `reporter` as well. Raises UsageError for a contradiction or another store at `output` without `overwrite`,
    InputError when nothing can be taken, LimGpuError when the disk is full or another run writes there.
    """
    sources = [sources] if isinstance(sources, str | Path) else sources
    if not sources:
        raise UsageError("ingest: no source. Give a folder or a file")
    settings = Settings(
        Path(os.path.abspath(output)),
        modality,
        skip_bad_slices,
        keep_identifiers,
        assume_hu,
        compression,
        patient_pattern,
        default_workers() if workers is None else workers,
        max_thickness,
    )
    settings.check()
    reporter = reporter or Reporter(quiet=True)
    cluster = Cluster.at(ray, cpus_per_task)
    part = Shard.asked(shard, ray=ray, overwrite=overwrite)
    if cluster is None:
        start_server()
        return _ingest(sources, Path(output), settings, overwrite, dry_run, reporter, None, part)
    if workers is not None:
        raise UsageError("`workers` are of this machine. Give `cpus_per_task` with `ray`")
    with connect(cluster.address) as hosts:
        reporter.note(f"ray: {hosts}")
        there = replace(settings, workers=cluster.cpus)
        return _ingest(sources, Path(output), there, overwrite, dry_run, reporter, Counter())


def _ingest(
    sources: Sequence[str | Path],
    output: Path,
    settings: Settings,
    overwrite: bool,
    dry_run: bool,
    reporter: Reporter,
    worked: Counter[str] | None,
    shard: Shard | None = None,
) -> IngestReport:
    """worked: gets the number of volumes that each host converts; None where this machine does all."""
    where = [os.path.abspath(source) for source in sources]
    run = run_in_children if worked is None else partial(run_on_cluster, sees=where)
    planned = _read(sources, settings, reporter, run)
    check_count(output, len(planned.volumes))
    report = IngestReport(output, counted=dict(planned.counted), failures=planned.failures, dry_run=dry_run)
    report.hosts, report.examples = worked, planned.examples
    if dry_run:
        _preview(planned.volumes, report)
        return report
    with _alone_in(settings.store, shard), _elsewhere(where, settings.store, worked) as converting:
        _write(planned.volumes, settings, overwrite, report, reporter, converting, shard)
    return report


@contextmanager
def _elsewhere(sources: Sequence[str], store: Path, worked: Counter[str] | None) -> Iterator[Runner | None]:
    """What converts on the hosts of a cluster, which `worked` counts; None where this machine does."""
    if worked is None:
        yield None
        return
    with sign_in(store) as sign:
        yield partial(run_on_cluster, sees=[*sources, sign], worked=worked)


def _read(sources: Sequence[str | Path], settings: Settings, reporter: Reporter, run: Runner) -> Planned:
    """Walk, scan and plan. Raises InputError for a store, and when there is no volume in it."""
    private = Path(f"{settings.store.resolve()}.private")
    for source in sources:
        if os.path.isfile(os.path.join(source, "store.json")):
            raise InputError(f"{source}: is a store, not images. Leave it out, or give it as -o {source}")
    walked = walk(sources, leave_out=[settings.store, private])
    if again := walked.read_once:
        reporter.warn(again[0] + (f", and {len(again) - 1:,} more like it" if len(again) > 1 else ""))
    with reporter.track("read headers", walked.count, "files") as advance:
        scanned = read_headers(walked.files, settings.modality, settings.assume_hu, settings.workers, advance, run)
    planned = plan_volumes(scanned, settings, partial(_digests, settings=settings, run=run))
    if settings.max_thickness is not None:
        planned.volumes, thick = of_thin_slices(planned.volumes, settings.max_thickness, reporter)
        planned.counted.update(thick)
    planned.counted += walked.counted
    planned.examples |= walked.examples
    planned.failures[:0] = walked.failures
    for failure in planned.failures:
        reporter.error(failure)
    if not planned.volumes:
        counts = passed_by(planned.counted, planned.examples)
        counts += [f"{len(planned.failures)} failed"] if planned.failures else []
        places = ", ".join(str(source) for source in sources)
        others = "Give DICOM, NIfTI, PNG or JPEG files" + (", or another --modality" if planned.counted else "")
        remedy = "Look at the errors above" if planned.failures else others
        raise InputError(f"{places}: no volume in it ({', '.join(counts) or 'no file'}). {remedy}")
    return planned


def _digests(frames: Sequence[Frame], settings: Settings, run: Runner) -> dict[FrameId, str]:
    """Digests of the pixels of colliding frames; a frame that cannot be decoded has none."""
    chunks = [frames[i : i + CHUNK] for i in range(0, len(frames), CHUNK)]
    tasks = [([SliceSource.of(frame) for frame in chunk],) for chunk in chunks]
    limits = {"workers": settings.workers, "timeout": SECONDS, "memory_limit": MEMORY}
    result: dict[FrameId, str] = {}
    for outcome in run(pixel_digests, tasks, **limits):
        for frame, digest in zip(chunks[outcome.task], outcome.value or [], strict=False):
            result[frame_id(frame)] = digest
    return result


def _preview(volumes: Sequence[VolumePlan], report: IngestReport) -> None:
    """What a dry run tells."""
    plans = sorted(volumes, key=lambda plan: plan.order)
    report.planned = [(plan.label, plan.shape) for plan in plans]
    report.slices = sum(len(plan.slices) for plan in plans)
    report.single = sum(len(plan.slices) == 1 for plan in plans)


@contextmanager
def _alone_in(store: Path, shard: Shard | None) -> Iterator[None]:
    """Raises LimGpuError where another run writes to `store`, other shards aside, or where the disk refuses."""
    try:
        with locked(store, shared=shard is not None):
            yield
    except OSError as error:
        raise unwritable(error.filename or store, error) from error


def _write(
    volumes: Sequence[VolumePlan],
    settings: Settings,
    overwrite: bool,
    report: IngestReport,
    reporter: Reporter,
    run: Runner | None,
    shard: Shard | None,
) -> None:
    """Bring the planned volumes into the store, and its index up to date; of a shard its volumes alone."""
    store = settings.store
    keys = Keys(None if settings.keep_identifiers else private_key(store))
    plans = keys.complete(volumes, settings.parameters() | {"patient_pattern": settings.patient_pattern})
    origin = keys.digest("store", *(part for plan in plans for part in (plan.key, plan.fingerprint)))
    before = _index_before(store, origin, overwrite)
    plans = plans if shard is None else shard.of(plans)
    stored = store_volumes(plans, settings, reporter, run)
    for failure in stored.failures:
        reporter.error(failure)
    _say_defects(stored.defects, reporter)
    report.failures += stored.failures
    report.defects = [(volume, text) for volume, _kind, text in stored.defects]
    if not stored.entries and (plans or shard is None):
        raise InputError(f"{store}: no volume could be read, {len(report.failures)} failed. Look at the errors above")
    entries = tuple(stored.entries[plan.key] for plan in plans if plan.key in stored.entries)
    report.written, report.reused = stored.written, len(entries) - stored.written
    report.slices = sum(entry.shape[0] for entry in entries)
    report.single = sum(entry.shape[0] == 1 for entry in entries)
    if shard is not None:
        report.shard = str(shard)
        return
    skipped = report.counted | ({"failed": len(report.failures)} if report.failures else {})
    report.unchanged = not stored.written and before == Index(entries, settings.parameters(), skipped, origin)
    if not report.unchanged:
        write_index(store, entries, settings.parameters(), skipped, origin)
        if overwrite and not report.failures:
            remove_unlisted(store)  # what the store before held of other sources


def _index_before(store: Path, origin: str, overwrite: bool) -> Index | None:
    """The index that stands there, if there is one. Raises UsageError for one of another origin, unless `overwrite`."""
    if not (store / "store.json").exists():
        return None
    try:
        before = read_index(store)
    except InputError as error:
        if overwrite:
            return None
        raise UsageError(f"{error}. Give --overwrite to make it anew") from None
    if before.origin != origin and not overwrite:
        remedy = "Give --overwrite (equal volumes stay), or another -o"
        raise UsageError(f"{store}: holds a store of other sources or options. {remedy}")
    return before


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
