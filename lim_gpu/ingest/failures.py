"""Files and volumes that did not reach the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lim_gpu.ingest.records import SourceError

SKIPPED = ", skipped"
SKIPPABLE = "; --skip-bad-slices takes the volume without"


@dataclass(frozen=True)
class Failure:
    """A file or volume that did not reach the store, and why: one line."""

    path: str
    cause: str

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


def name_bad_files(bad: Sequence[tuple[str, SourceError]], files: int, note: str) -> list[Failure]:
    """A failure for each path in `bad`; one for all `files` of a volume where all are bad for the same cause."""
    first: dict[str, SourceError] = {}
    for path, error in bad:
        first.setdefault(path, error)
    if len(first) == files and len({error.cause for error in first.values()}) == 1:
        path, error = next(iter(first.items()))
        return [Failure(path, str(error) if files == 1 else f"{error} (and so all {files} files of the volume)")]
    return [Failure(path, f"{error} ({len(first)} bad of {files} files{note})") for path, error in first.items()]
