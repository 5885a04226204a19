"""The kept slices of a selection as a store of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import fingerprint, locked, remove_stale
from lim_gpu.progress import Reporter
from lim_gpu.store.private import carry_private
from lim_gpu.store.slices import SliceStore, read_index, remove_unlisted, standing_volume, volume_path, write_index
from lim_gpu.store.volume import AGAIN
from lim_gpu.store.volume import Volume as Volume
from lim_gpu.store.volume import VolumeEntry as VolumeEntry
from lim_gpu.store.writer import VolumeWriter
from lim_gpu.workers import run_in_children

if TYPE_CHECKING:
    from lim_gpu.selection import VolumeSelection


def write_selected(
    store: SliceStore,
    selections: Sequence[VolumeSelection],
    folder: Path,
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> list[str]:
    """Copy the kept slices of `selections` into a new store at `folder`; volumes that stand already are used again.

    Returns a line for each volume that cannot be read: it is said through `reporter` and left out. Raises UsageError
    for the store itself, or another store at `folder` without `overwrite`; InputError when no volume can be read;
    LimGpuError when the disk is full.
    """
    reporter = reporter or Reporter(quiet=True)
    if folder.resolve() == store.path.resolve():
        raise UsageError(f"{folder}: is the store that is read. Choose another --write")
    tasks = [  # absolute paths: the children keep the working directory in which the first of them started
        (store.path.resolve(), folder.resolve(), store[selection.key].entry, np.flatnonzero(selection.kept).tolist())
        for selection in selections
        if selection.kept.any()
    ]
    origin = fingerprint([[entry.digest, kept] for _path, _folder, entry, kept in tasks])
    if (folder / "store.json").exists():
        standing = read_index(folder)
        if standing.origin == origin and len(standing.volumes) == len(tasks):
            reporter.note(f"unchanged: {folder}")
            return []
        if standing.origin != origin and not overwrite:
            raise UsageError(f"{folder}: holds another store. Give --overwrite, or another --write")
    with locked(folder):
        remove_stale(folder / "volumes")
        entries, failures = _copy_all(tasks, reporter)
        if not entries:
            raise InputError(f"{store.path}: no volume can be read. {AGAIN}")
        _carry(store, folder, {entry.key: kept for _, _, entry, kept in tasks}, reporter)
        parameters = store.parameters | {"selected_from": store.fingerprint}
        write_index(folder, entries, parameters, {"unreadable volume": len(failures)} if failures else {}, origin)
        remove_unlisted(folder)
    return failures


def _carry(store: SliceStore, folder: Path, kept: dict[str, list[int]], reporter: Reporter) -> None:
    if not carry_private(store.path, folder, kept):
        reporter.note(f"{folder}: does not know the source files of all its slices, as {store.path} does not")


def _copy_all(
    tasks: Sequence[tuple[Path, Path, VolumeEntry, list[int]]], reporter: Reporter
) -> tuple[list[VolumeEntry], list[str]]:
    """The entries of the copies, in order, and a line for each volume that cannot be read."""
    done: dict[int, VolumeEntry | InputError] = {}
    with reporter.track("write", len(tasks), "volumes") as advance:
        for outcome in run_in_children(copy_selected, tasks, workers=1):
            if outcome.error is not None:
                raise LimGpuError(outcome.error)
            if isinstance(outcome.value, InputError):
                reporter.error(outcome.value)
            done[outcome.task] = outcome.value
            advance(1)
    results = [done[i] for i in range(len(tasks))]
    entries = [result for result in results if isinstance(result, VolumeEntry)]
    return entries, [str(result) for result in results if isinstance(result, InputError)]


def copy_selected(store: Path, folder: Path, entry: VolumeEntry, kept: list[int]) -> VolumeEntry | InputError:
    """Write the slices `kept` of one volume as a volume of the store `folder`; runs in a child process.

    Returns what is wrong with the volume when it cannot be read. Raises LimGpuError when the disk refuses.
    """
    origin = fingerprint([entry.digest, kept])
    standing = standing_volume(folder, entry.key, origin)
    if standing is not None:
        return standing
    _, height, width = entry.shape
    try:
        with Volume(volume_path(store, entry.key), entry) as volume:
            header = volume.header.selected(kept, volume.z, entry.digest, origin)
            with VolumeWriter(folder / "volumes", entry.key, len(kept), height, width, entry.dtype, None) as writer:
                for i in kept:
                    writer.append(volume.read_slice(i))
                digest = writer.finish(header, volume.z[kept])
    except InputError as error:
        return error
    return VolumeEntry.of(header, digest)
