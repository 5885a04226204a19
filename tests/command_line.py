"""The program as a person calls it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def lim_gpu(*arguments, cwd=None):
    command = [sys.executable, "-m", "lim_gpu.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800)


def fails(result, code, *words):
    """One line on stderr that says what and the remedy; no traceback; nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
