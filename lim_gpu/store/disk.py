"""What a disk refuses while HDF5 writes to it: remembered where it happens, raised as one line where it is safe."""

from __future__ import annotations

import ctypes
import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lim_gpu.errors import LimGpuError, go_on_interrupting

AT_ONCE = 8 << 20  # bytes after which the disk begins with them
SYNC_FILE_RANGE_WRITE = 2  # of Linux's <fcntl.h>
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Disk(io.FileIO):
    """A file in which nothing fails: HDF5 2.0 crashes, soon or at exit, once it has met a full disk.

    What failed is added to `failures`, which `writing` looks at.
    """

    def __init__(self, path: Path, failures: list[OSError]) -> None:
        super().__init__(path, "w+")
        self._failures = failures
        self._waiting = 0  # bytes that the disk was not told of

    def write(self, data: Any) -> int:
        """All of `data`, or as much as fits."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._failures.append(error)
        self._waiting += size
        if self._waiting >= AT_ONCE:
            self._waiting = 0
            _begin_writing(self.fileno())
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._failures.append(error)
            return size or 0


def _begin_writing(handle: int) -> None:
    """Have the disk at work while more is made, where the system can; elsewhere all of it waits for the last fsync."""
    if begin := getattr(ctypes.CDLL(None), "sync_file_range", None):
        begin(handle, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)


@contextmanager
def writing(path: Path, failures: Sequence[OSError]) -> Iterator[None]:
    """Turn what the disk refuses, within the block or before, into one line with the file's name and the remedy.

    failures  what a `Disk` met; the first of them is the cause, whatever HDF5 made of it
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        go_on_interrupting(caught)
        error = caught
    if failures:
        error = failures[0]
    if error is None:
        return
    if not isinstance(error, OSError | RuntimeError):
        raise error
    number = getattr(error, "errno", None)
    cause = os.strerror(number) if number else str(error).split("\n", 1)[0]
    remedy = "Free some disk space" if number in DISK_FULL else "Check the folder"
    raise LimGpuError(f"{path}: cannot be written ({cause}). {remedy} and run again") from error
