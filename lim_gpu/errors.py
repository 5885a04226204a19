"""The expected errors: one line each, with the exit code of the command line."""

from __future__ import annotations


class LimGpuError(Exception):
    """An expected failure. Its text is one line that names the file or the option, and the remedy."""

    exit_code = 3


class UsageError(LimGpuError, ValueError):
    """The call contradicts itself or asks for what does not exist."""

    exit_code = 2


class InputError(LimGpuError, ValueError):
    """A file or an array cannot be used."""

    exit_code = 3


class NoGpuError(LimGpuError, RuntimeError):
    """A GPU was asked for and none is usable."""

    exit_code = 4


# Not an error but an exit code: finished, and some items were skipped and listed.
EXIT_SKIPPED = 5
