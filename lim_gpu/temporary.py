"""Folders that are removed at the end, or once their process has: which process that was, on which host."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_HOST = 40  # characters, of 255 that a name may have
_folders: set[Path] = set()  # of this process


@contextmanager
def temporary_folder(parent: str | None = None) -> Iterator[Path]:
    """A folder that is removed at the end, below `parent` or where the system has such.

    A kill leaves it; the next that is made removes those of this host whose process has ended.
    """
    where = Path(parent or tempfile.gettempdir())
    own = f"lim-gpu-{hashlib.sha256(here().encode()).hexdigest()[:8]}."  # short: Ray's sockets lie in such a folder
    for folder in where.glob(f"{own}*"):
        pid = folder.name.removeprefix(own).partition(".")[0]
        if pid.isdecimal() and not runs(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{own}{os.getpid()}.", dir=where, ignore_cleanup_errors=True) as made:
        _folders.add(Path(made))
        try:
            yield Path(made)
        finally:
            _folders.discard(Path(made))


def is_temporary(folder: Path) -> bool:
    """Whether it is such a folder of this process, whose files nobody looks for after a power failure."""
    return folder in _folders


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it for its parent to see."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def here() -> str:
    """This host, and the PID namespace: containers of one host may have one name, and count their processes alike."""
    host = re.sub("[^A-Za-z0-9-]", "-", socket.gethostname())[:LONGEST_HOST]
    with suppress(OSError):
        return f"{host}-{os.stat('/proc/self/ns/pid').st_ino}"
    return host or "host"
