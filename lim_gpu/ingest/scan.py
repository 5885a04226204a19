"""The sources walked, and every file's header read in child processes.

What reads DICOM is imported where a DICOM file is met: pydicom takes 0.3 s, and only children need it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError
from lim_gpu.ingest.failures import Failure
from lim_gpu.ingest.nifti import is_pair_header, read_nifti
from lim_gpu.ingest.packed import Packed, PackedList
from lim_gpu.ingest.pictures import read_picture
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import Counted, Found, Scanned, SourceError
from lim_gpu.natural import natural_key
from lim_gpu.pictures import ENDINGS, SIGNATURES
from lim_gpu.workers import Runner, TaskResult, run_in_children

CHUNK = 32  # files a task
RUN = 4096  # names of a folder that are sorted at once
SECONDS = 120  # for a chunk
MEMORY = 8 * 2**30  # bytes of address space for a child; NumPy's thread pools alone reserve some
NOTHING: Packed[Any] = Packed([])
NIFTI_NAMES = (".nii", ".nii.gz")
NO_PART10 = SourceError("no Part 10 header", "it holds DICOM elements alone. Rewrite it, as dcmconv of DCMTK does")


@dataclass
class Walk:
    """The regular files below the sources in natural order, and what was passed by."""

    files: PackedList[Found] = field(default_factory=lambda: PackedList(CHUNK))
    count: int = 0  # of the files
    counted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # a path of each kind
    failures: list[Failure] = field(default_factory=list)
    read_once: list[str] = field(default_factory=list)  # a sentence for each source that another one holds


def walk(sources: Sequence[str | Path], leave_out: Sequence[Path]) -> Walk:
    """Find all files. Folders are entered, symbolic links and hidden entries are not; nor is anything in `leave_out`.

    Raises `InputError` for a source that does not exist.
    """
    result = Walk()
    seen: set[str] = set()
    barred = {os.path.realpath(path) for path in leave_out}
    roots = [os.path.realpath(source) for source in sources]
    result.read_once = _read_once(sources, roots)
    for source, root in zip(sources, roots, strict=True):
        if not os.path.exists(root):
            store = f". Did you mean -o {source}?" if len(sources) > 1 and source == sources[-1] else ""
            raise InputError(f"{source}: does not exist. Give a folder or a file{store}")
        name = os.path.basename(os.path.abspath(source))
        for path in _below(root, result, barred):
            if path not in seen:
                if result.read_once:  # else no file comes twice, and many would take memory
                    seen.add(path)
                below = os.path.relpath(path, root)
                _add(result, path, name if below == "." else f"{name}/{below}")
    return result


def _read_once(sources: Sequence[str | Path], roots: Sequence[str]) -> list[str]:
    """A sentence for each source that comes again, or lies in another one."""
    order = sorted(range(len(roots)), key=lambda place: roots[place].split(os.sep))  # what lies in a folder follows it
    sentences, outer = [], order[0]
    for place in order[1:]:
        if os.path.commonpath([roots[outer], roots[place]]) != roots[outer]:
            outer = place
            continue
        again = "given twice" if roots[place] == roots[outer] else f"lies in {sources[outer]}"
        sentences.append(f"{sources[place]}: {again}, read once")
    return sentences


def _below(root: str, result: Walk, barred: set[str]) -> Iterator[str]:
    """Every regular file, depth first, the names of a folder in natural order. No recursion: trees may be deep."""
    folders = [iter([root])]
    while folders:
        path = next(folders[-1], None)
        if path is None:
            folders.pop()
        elif path in barred:
            continue
        elif os.path.isdir(path):
            folders.append(_inside(path, result))
        else:
            yield path


def _inside(folder: str, result: Walk) -> Iterator[str]:
    """What a folder holds, in natural order: sorted in runs, which wait packed and are merged."""
    runs: list[PackedList[str]] = []
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if not _is_passed_by(entry, result))
            while run := sorted(islice(names, RUN), key=_place):
                runs.append(PackedList(RUN // 16, run))
    except OSError as error:
        result.failures.append(Failure(folder, f"cannot be read: {error.strerror}"))
        return iter(())
    return (os.path.join(folder, name) for name in merge(*runs, key=_place))


def _place(name: str) -> tuple[Any, str]:
    """Where a name stands in its folder; 01 is not 1."""
    return natural_key(name), name


def _is_passed_by(entry: os.DirEntry[str], result: Walk) -> bool:
    kind = _passed_by(entry)
    if kind:
        result.counted[kind] += 1
        result.examples.setdefault(kind, entry.path)
    return bool(kind)


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
    result.files.append(Found(path, name, result.count, status.st_size, status.st_mtime_ns))
    result.count += 1


def read_headers(
    files: PackedList[Found],
    modality: str,
    assume_hu: bool,
    workers: int,
    advance: Callable[[int], None],
    run: Runner = run_in_children,
) -> Iterator[Scanned]:
    """What is in each file, in the order of `files`, which are let go of.

    A file that kills its reader is scanned alone, and named.
    """
    files.pack()
    done: dict[int, Packed[Scanned]] = {}
    alone: list[tuple[int, Found]] = []
    for outcome in _scanning(_Tasks(files.parts, modality, assume_hu), workers, run):
        if outcome.error is None:
            done[outcome.task] = Packed(outcome.value)
            advance(len(outcome.value))
        else:
            alone += [(outcome.task, found) for found in files.parts[outcome.task]]
        files.parts[outcome.task] = NOTHING  # what was read of them holds them, too
    again: dict[int, Scanned] = {}  # by the place in `alone`
    tasks = [([found], modality, assume_hu) for _chunk, found in alone]
    for outcome in _scanning(tasks, workers, run):
        found = alone[outcome.task][1]
        error = SourceError("cannot be read", outcome.error or "")
        again[outcome.task] = outcome.value[0] if outcome.error is None else Scanned(found, error)
        advance(1)
    for place, group in groupby(range(len(alone)), key=lambda place: alone[place][0]):
        done[place] = Packed(again[i] for i in group)
    return _in_order(done)


def _in_order(done: dict[int, Packed[Scanned]]) -> Iterator[Scanned]:
    """Lets go of what has been gone through."""
    for chunk in range(len(done)):
        yield from done.pop(chunk)


@dataclass(frozen=True)
class _Tasks(Sequence[tuple[Sequence[Found], str, bool]]):
    """Arguments of `scan_files`, unpacked when their turn comes."""

    chunks: Sequence[Packed[Found]]
    modality: str
    assume_hu: bool

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, which: Any) -> Any:
        return list(self.chunks[which]), self.modality, self.assume_hu


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
