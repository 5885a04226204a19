"""The sources walked, and every file's header read in child processes.

What reads DICOM is imported where a DICOM file is met: pydicom takes 0.3 s, and only children need it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lim_gpu.errors import InputError
from lim_gpu.ingest.failures import Failure
from lim_gpu.ingest.nifti import is_pair_header, read_nifti
from lim_gpu.ingest.pictures import read_picture
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import Counted, Found, Scanned, SourceError
from lim_gpu.natural import natural_key
from lim_gpu.pictures import ENDINGS, SIGNATURES
from lim_gpu.workers import Runner, TaskResult, run_in_children

CHUNK = 32  # files a task
SECONDS = 120  # for a chunk
MEMORY = 8 * 2**30  # bytes of address space for a child; NumPy's thread pools alone reserve some
NIFTI_NAMES = (".nii", ".nii.gz")
NO_PART10 = SourceError("no Part 10 header", "it holds DICOM elements alone. Rewrite it, as dcmconv of DCMTK does")


@dataclass
class Walk:
    """The regular files below the sources in natural order, and what was passed by."""

    files: list[Found] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


def walk(sources: Sequence[str | Path], leave_out: Sequence[Path]) -> Walk:
    """Find all files. Folders are entered, symbolic links and hidden entries are not; nor is anything in `leave_out`.

    Raises `InputError` for a source that does not exist.
    """
    result = Walk()
    seen: set[str] = set()
    barred = {os.path.realpath(path) for path in leave_out}
    for source in sources:
        root = os.path.realpath(source)
        if not os.path.exists(root):
            store = f". Did you mean -o {source}?" if len(sources) > 1 and source == sources[-1] else ""
            raise InputError(f"{source}: does not exist. Give a folder or a file{store}")
        name = os.path.basename(os.path.abspath(source))
        for path in _below(root, result, barred):
            if path not in seen:
                seen.add(path)
                below = os.path.relpath(path, root)
                _add(result, path, name if below == "." else f"{name}/{below}")
    return result


def _below(root: str, result: Walk, barred: set[str]) -> Iterator[str]:
    """Every regular file, depth first, the names of a folder in natural order. No recursion: trees may be deep."""
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path in barred:
            continue
        if not os.path.isdir(path):
            yield path
            continue
        try:
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: (natural_key(entry.name), entry.name), reverse=True)
        except OSError as error:
            result.failures.append(Failure(path, f"cannot be read: {error.strerror}"))
            continue
        for entry in inside:
            if kind := _passed_by(entry):
                result.counted[kind] += 1
            else:
                waiting.append(entry.path)


def _passed_by(entry: os.DirEntry[str]) -> str:
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        return "symbolic link"
    regular = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
    return "" if regular else "special file"


def _add(result: Walk, path: str, name: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        result.failures.append(Failure(path, f"cannot be read: {error.strerror}"))
        return
    result.files.append(Found(path, name, len(result.files), status.st_size, status.st_mtime_ns))


def read_headers(
    files: Sequence[Found],
    modality: str,
    assume_hu: bool,
    workers: int,
    advance: Callable[[int], None],
    run: Runner = run_in_children,
) -> list[Scanned]:
    """What is in each file, in the order of `files`. A file that kills its reader is scanned alone, and named."""
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    done: dict[str, Scanned] = {}
    alone: list[Found] = []
    tasks = [(chunk, modality, assume_hu) for chunk in chunks]
    for outcome in _scanning(tasks, workers, run):
        if outcome.error is None:
            done.update((scanned.found.path, scanned) for scanned in outcome.value)
            advance(len(outcome.value))
        else:
            alone += chunks[outcome.task]
    tasks = [([found], modality, assume_hu) for found in alone]
    for outcome in _scanning(tasks, workers, run):
        found = alone[outcome.task]
        error = SourceError("cannot be read", outcome.error or "")
        done[found.path] = outcome.value[0] if outcome.error is None else Scanned(found, error)
        advance(1)
    return [done[found.path] for found in files]


def _scanning(tasks: Sequence[tuple[Sequence[Found], str, bool]], workers: int, run: Runner) -> Iterator[TaskResult]:
    return run(scan_files, tasks, workers=workers, timeout=SECONDS, memory_limit=MEMORY)


def scan_files(files: Sequence[Found], modality: str, assume_hu: bool) -> list[Scanned]:
    """Read the headers of some files (in a child process)."""
    silence()
    return [_scan_file(found, modality, assume_hu) for found in files]


def _scan_file(found: Found, modality: str, assume_hu: bool) -> Scanned:
    name = found.path.lower()
    try:
        with open(found.path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        return Scanned(found, SourceError("cannot be read", error.strerror or type(error).__name__))
    if head[128:] == b"DICM":
        from lim_gpu.ingest.dicom import read_instance

        return Scanned(found, read_instance(found, modality, assume_hu))
    if name.endswith(NIFTI_NAMES) or is_pair_header(found.path, head):
        return Scanned(found, read_nifti(found))
    if head.startswith(SIGNATURES) or name.endswith(ENDINGS):
        return Scanned(found, read_picture(found))
    if name.endswith(".dcm"):
        from lim_gpu.ingest.dicom import lacks_part10_header

        return Scanned(found, NO_PART10 if lacks_part10_header(found.path) else Counted("named .dcm but not DICOM"))
    return Scanned(found, Counted("not an image"))
