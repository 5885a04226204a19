"""Planned volumes into the store: what stands already is used again, the rest is converted in child processes."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import remove_stale
from lim_gpu.ingest.convert import Converted, convert
from lim_gpu.ingest.defects import sentences
from lim_gpu.ingest.failures import SKIPPED, Failure
from lim_gpu.ingest.scan import MEMORY, SECONDS
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.shares import DecodedShare, decode_share, shares_of, worth_sharing
from lim_gpu.ingest.volume_plan import VolumePlan
from lim_gpu.progress import Advance, Reporter
from lim_gpu.store.disk import DISK_FULL
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.private import private_folder
from lim_gpu.store.slices import volume_path
from lim_gpu.store.volume import VolumeEntry
from lim_gpu.workers import Runner, run_in_children

SECONDS_A_SLICE = 2.0  # a decoder needs 0.1 at most; slow network disks need more
OURS = re.compile(r"store\.json|key|[0-9a-f]{16}\.(h5|jsonl)")  # what is written in a store and beside it
SPARE = 16 * 2**20  # bytes free below which a disk counts as full


@dataclass
class Stored:
    """Volumes in the store by key, how many of them are new, and what went wrong."""

    entries: dict[str, VolumeEntry] = field(default_factory=dict)
    written: int = 0
    failures: list[Failure] = field(default_factory=list)
    defects: list[tuple[str, str, str]] = field(default_factory=list)  # volume, kind, sentence

    def add(self, plan: VolumePlan, done: Converted) -> None:
        """Take in a volume, its defects, and what it lost."""
        self.failures += done.failures
        header = done.header
        if header is None:
            return
        self.entries[plan.key] = VolumeEntry.of(header, done.digest)
        n, rows, columns = header.shape
        clamped = header.clamped / (n * rows * columns)
        self.defects += [(plan.label, kind, text) for kind, text in sentences(header.defects, clamped).items()]


def store_volumes(
    plans: Sequence[VolumePlan], settings: Settings, reporter: Reporter, run: Runner | None = None
) -> Stored:
    """Bring every planned volume into the store. A volume that cannot be converted is a failure; the others go on.

    run: what converts them elsewhere, in place of child processes. Raises LimGpuError when the disk is full: the next
    volume would fail too.
    """
    _remove_temporaries(settings.store)
    standing = {plan.key: _standing(plan, settings.store) for plan in plans}
    waiting = [plan for plan in plans if standing[plan.key] is None]
    _check_space(waiting, settings)
    waiting.sort(key=lambda plan: -plan.size)  # the longest first, so that none is left alone at the end
    slices = sum(len(plan.slices) for plan in waiting)
    with reporter.track("convert", slices, "slices") as advance:
        try:
            new = (_convert_here if run is None else partial(_convert, run=run))(waiting, settings, advance)
        finally:
            _remove_temporaries(settings.store)  # of children that were killed
    stored = Stored()
    for plan in plans:
        done = standing[plan.key] or new[plan.key]
        stored.add(plan, done)
        stored.written += plan.key in new and plan.key in stored.entries
    return stored


def _remove_temporaries(store: Path) -> None:
    """Remove what killed runs left."""
    private = private_folder(store)
    for folder in (store, store / "volumes", private, private / "sources"):
        remove_stale(folder, OURS.fullmatch)


def _convert_here(waiting: Sequence[VolumePlan], settings: Settings, advance: Advance) -> dict[str, Converted]:
    """In child processes: first what several of them share, then each volume in one."""
    done: dict[str, Converted] = {}
    for plan in worth_sharing(waiting, settings.workers) if _room_for_two(waiting, settings) else []:
        done[plan.key] = _convert_shared(plan, settings, advance)
    rest = [plan for plan in waiting if plan.key not in done]
    return done | _convert(rest, settings, advance, run_in_children)


def _convert_shared(plan: VolumePlan, settings: Settings, advance: Advance) -> Converted:
    """Each share brings its part of the bar, and joining them nothing."""
    unnamed = plan.unnamed(settings.keep_identifiers)
    with shares_of(unnamed, settings.workers, settings.store) as shares:
        steps = Steps(advance, [len(share.plan.slices) for share in shares])
        decoded: dict[int, DecodedShare] = {}
        for outcome in run_in_children(
            decode_share, [(share, settings) for share in shares], on_tick=steps.tell, **_limits([plan], settings)
        ):
            if outcome.error:
                return _died(plan, outcome.error, settings)
            steps.end(outcome.task)
            decoded[outcome.task] = outcome.value
        joining = [(unnamed, settings, [decoded[i] for i in range(len(shares))])]
        [joined] = run_in_children(convert, joining, **_limits([plan], settings))
        return _died(plan, joined.error, settings) if joined.error else joined.value


def _convert(plans: Sequence[VolumePlan], settings: Settings, advance: Advance, run: Runner) -> dict[str, Converted]:
    """What became of each volume, by key. Who converts a volume is not told whose it is, but where it lies."""
    tasks = [(plan.unnamed(settings.keep_identifiers), settings) for plan in plans]
    steps = Steps(advance, [len(plan.slices) for plan in plans])
    done: dict[str, Converted] = {}
    for outcome in run(convert, tasks, on_tick=steps.tell, **_limits(plans, settings)):
        plan = plans[outcome.task]
        done[plan.key] = _died(plan, outcome.error, settings) if outcome.error else outcome.value
        steps.end(outcome.task)
    return done


@dataclass
class Steps:
    """Slices that tasks tell of as they go, and the rest of them once they are over; a task that begins anew goes back.

    slices: of each task.
    """

    advance: Advance
    slices: Sequence[int]
    told: Counter[int] = field(default_factory=Counter)

    def tell(self, task: int, count: int) -> None:
        """A task has done `count` of its slices."""
        self.advance(count - self.told[task])
        self.told[task] = count

    def end(self, task: int) -> None:
        """A task is over."""
        self.tell(task, self.slices[task])


def _limits(plans: Sequence[VolumePlan], settings: Settings) -> dict[str, Any]:
    """How many children, and what one may take."""
    timeout = SECONDS + SECONDS_A_SLICE * max((len(plan.slices) for plan in plans), default=0)
    memory = MEMORY + 8 * max((plan.size for plan in plans if plan.nifti), default=0)  # it is mapped as a whole
    return {"workers": settings.workers, "timeout": timeout, "memory_limit": memory}


def _died(plan: VolumePlan, error: str, settings: Settings) -> Converted:
    """What becomes of a volume whose child ended. Raises LimGpuError where the disk is full."""
    if _disk_is_full(error, settings.store):
        raise LimGpuError(f"{settings.store}: {error}")
    return Converted(None, "", [Failure(plan.path, f"{error} (at a volume of {len(plan.slices)} slices)")])


def _disk_is_full(error: str, store: Path) -> bool:
    return any(os.strerror(number) in error for number in DISK_FULL) or shutil.disk_usage(store).free < SPARE


def _standing(plan: VolumePlan, store: Path) -> Converted | None:
    """The volume as an earlier run left it, if it opens well and was made from the same sources in the same way."""
    try:
        with VolumeFile(volume_path(store, plan.key), plan.key) as file:
            header, digest = file.header, file.digest
    except InputError:
        return None
    sources = private_folder(store) / "sources" / f"{plan.key}.jsonl"
    if header.fingerprint != plan.fingerprint or not sources.exists():
        return None
    before = {row["cause"]: row["count"] for row in plan.defects.get("skipped_slices", [])}
    lost = {
        row["cause"]: row["count"] - before.get(row["cause"], 0) for row in header.defects.get("skipped_slices", [])
    }
    failures = [
        Failure(plan.path, f"{cause} (slices of the volume{SKIPPED}: {count})")
        for cause, count in lost.items()
        if count
    ]
    return Converted(header, digest, failures)


def _room_for_two(waiting: Sequence[VolumePlan], settings: Settings) -> bool:
    return 2.1 * sum(plan.size for plan in waiting) < shutil.disk_usage(settings.store).free


def _check_space(waiting: Sequence[VolumePlan], settings: Settings) -> None:
    needed = int(1.05 * sum(plan.size for plan in waiting))
    free = shutil.disk_usage(settings.store).free
    if settings.compression is None and needed > free:
        text = f"needs {needed >> 20} MiB, {free >> 20} MiB are free. Free some space, or give --compression deflate"
        raise LimGpuError(f"{settings.store}: {text}")
