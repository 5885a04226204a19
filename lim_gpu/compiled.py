"""Compiling with Numba, and where the compiled code is kept: the one place that asks Numba to cache.

Numba would write beside the sources. Files that an installer does not know outlive it: after an uninstall they leave
a folder `lim_gpu` in site-packages, which Python takes for a package and finds before an editable install.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba

config: Any = numba.config  # its names are made at run time
_one_at_a_time = threading.Lock()  # the setting is of the process, and threads import modules while others do


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` that releases the GIL, divides like NumPy and keeps its code in the user's cache folder.

    Where that cannot be written, or NUMBA_CACHE_DIR where it is set, every process compiles anew.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        with _one_at_a_time, _cache_in(cache_folder()) as cache:
            return numba.njit(cache=cache, nogil=True, error_model="numpy", **options)(function)

    return decorate


def cache_folder() -> Path | None:
    """NUMBA_CACHE_DIR, or lim-gpu/numba in the user's cache folder (XDG Base Directory Specification); None without."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR)
    named = (Path(os.environ.get("XDG_CACHE_HOME", "")), Path(os.path.expanduser("~/.cache")))
    return next((path / "lim-gpu" / "numba" for path in named if path.is_absolute()), None)  # no other is valid


@contextmanager
def _cache_in(folder: Path | None) -> Iterator[bool]:
    """Whether code can be kept in `folder`; what is decorated meanwhile is kept there."""
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder or "")
    try:
        yield folder is not None and _writable(folder)
    finally:
        config.CACHE_DIR = before


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
