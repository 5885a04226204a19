"""The expected errors: one line each, with the exit code of the command line."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches


class LimGpuError(Exception):
    """An expected failure. Its text is one line that names the file or the option, and the remedy.

    A parameter stands in backquotes where the text may be read in Python and on the command line: see `as_options`.
    """

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


def as_options(text: str) -> str:
    """`text` in the words of the command line: `keep_count` becomes --keep-count."""
    return re.sub(r"`([a-z_]+)`", lambda found: "--" + found[1].replace("_", "-"), text)


def unknown(what: str, value: str, known: Sequence[str]) -> UsageError:
    """The error for a value that is none of `known`, with the nearest of these."""
    near = get_close_matches(value.lower(), [name.lower() for name in known], 1)
    meant = f"Did you mean {next(name for name in known if name.lower() == near[0])}? " if near else ""
    return UsageError(f"{what} {value!r} is unknown. {meant}Give one of {', '.join(known)}")


def unreadable(path: object, error: OSError) -> InputError:
    """The error for a file that the system does not give, with what may help."""
    remedies = {
        errno.ENOENT: "Check its name",
        errno.EACCES: "Change its permissions",
        errno.EPERM: "Change its permissions",
        errno.EISDIR: "Give a file in it",
    }
    remedy = remedies.get(error.errno or 0, "Check the disk")
    return InputError(f"{path}: cannot be read: {error.strerror}. {remedy}")


def unwritable(path: object, error: OSError) -> LimGpuError:
    """The error for a file that the system does not take, with what may help."""
    remedy = "Change its permissions, or choose another place"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Free some space"
    elif error.errno == errno.ENOTDIR:
        remedy = "Choose another place"
    return LimGpuError(f"{path}: cannot be written: {error.strerror or error}. {remedy}")


def go_on_interrupting(error: Exception) -> None:
    """Raise the Ctrl-C or SIGTERM that came while h5py or Ray was at work: Cython makes a SystemError of it."""
    interruption = error.__cause__ or error.__context__
    if interruption is not None and not isinstance(interruption, Exception):
        raise interruption


# Not an error but an exit code: finished, and some items were skipped and listed.
EXIT_SKIPPED = 5
