"""Progress of children, which share nothing else with their parent: a file that grows by a byte with every slice."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lim_gpu.progress import Advance


def tick(path: Path) -> None:
    """One slice more."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, b".")
    finally:
        os.close(handle)


@contextmanager
def ticking(advance: Advance, pause: float = 0.2) -> Iterator[Path]:
    """Yield such a file, and advance the bar as it grows."""
    with tempfile.NamedTemporaryFile() as file:
        stop = threading.Event()
        follower = threading.Thread(target=_follow, args=(file.name, advance, pause, stop.wait), daemon=True)
        follower.start()
        try:
            yield Path(file.name)
        finally:
            stop.set()
            follower.join()


def _follow(path: str, advance: Advance, pause: float, stopped: Callable[[float], bool]) -> None:
    seen, ended = 0, False
    while not ended:
        ended = stopped(pause)
        size = os.stat(path).st_size
        advance(size - seen)
        seen = size
