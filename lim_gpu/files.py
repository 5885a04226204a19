"""Writing that leaves the old file or the new one, never a torn one; reading JSON that others may have written."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO, Any, NoReturn

from lim_gpu.errors import InputError, LimGpuError, unreadable, unwritable
from lim_gpu.temporary import here, is_temporary, runs

# .NAME.HOST.PID.TOKEN.tmp; .NAME.PID.tmp of earlier versions
TEMPORARY = re.compile(r"\.(?P<name>.+?)\.((?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}|(?P<old>\d+))\.tmp")
DAY = 24 * 3600  # seconds
JSON_LIMIT = 64 << 20  # bytes
LARGE_JSON = 1 << 30  # bytes, of what has an entry a volume: four million of them


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, sync it and rename it to `path`.

    When the block fails the temporary file is removed and `path` is as it was. A kill leaves it, and `remove_stale`
    clears it. What lies in a `temporary_folder` is not synced: nobody looks for it after a power failure.
    """
    temporary, lasting = temporary_of(path), not is_temporary(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode))
        yield temporary
        if lasting:
            sync(temporary)
        os.replace(temporary, path)
        if lasting:
            sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_once(path: Path, text: str, mode: int = 0o644) -> None:
    """Write `text` where nothing stands; what another process has written there meanwhile stays."""
    temporary = temporary_of(path)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, limit: int = JSON_LIMIT) -> None:
    """Replace `path` by `value` as JSON that a person can read, in one step; dataclasses in it become objects.

    It is never held as a whole. Raises LimGpuError for more than `limit` bytes, which `read_json` would not read back,
    and ValueError for NaN and infinities.
    """
    pieces = json.JSONEncoder(indent=1, allow_nan=False, default=asdict).iterencode(value)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        written = 0
        for piece in chain(pieces, "\n"):
            written += file.write(piece)  # of ASCII alone
            if written > limit:
                raise LimGpuError(f"{path}: would be larger than the {limit >> 20} MiB that are read. Split the store")


def temporary_of(path: Path) -> Path:
    """Where to write what will be renamed to `path`: a name that no other process has, on no host."""
    return path.parent / f".{path.name}.{here()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def remove_stale(folder: Path, of: Callable[[str], object] = bool) -> None:
    """Remove the temporary files that killed runs left in `folder`, of the files whose name is one to `of`.

    Of this host those whose process has ended; of others, which may be at work, those that are older than a day.
    """
    for path in folder.glob(".*.tmp"):
        found = TEMPORARY.fullmatch(path.name)
        if found and of(found["name"]) and _is_stale(path, found["host"], int(found["pid"] or found["old"])):
            path.unlink(missing_ok=True)


def _is_stale(path: Path, host: str | None, pid: int) -> bool:
    if host in (None, here()) and not runs(pid):
        return True
    with suppress(OSError):  # it has been renamed meanwhile
        return time.time() - path.stat().st_mtime > DAY
    return False


@contextmanager
def locked(folder: Path, *, shared: bool = False, patient: bool = False) -> Iterator[None]:
    """Hold `folder/.lock`, so that two runs never write the same output. The lock ends with the process.

    shared: with others that share it, who each write files of their own; one that does not share has to be alone.
    patient: wait for who holds it.

    By fcntl's lock of an open file (OFD) where the system has it, which cluster file systems keep for all hosts; a
    flock is the host's own on GPFS.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115  (closed below; read and written, for either lock)
    except OSError as error:
        raise LimGpuError(f"{folder}: cannot be written: {error.strerror}. Choose another -o") from None
    with handle:
        try:
            _lock(handle, shared, patient)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as POSIX lets a system choose
            raise LimGpuError(f"{folder}: another run is writing here. Wait for it, or choose another -o") from None
        except OSError as error:
            raise LimGpuError(f"{folder}: its file system has no locks ({error.strerror}). Choose another -o") from None
        yield


def _lock(handle: IO[str], shared: bool = False, patient: bool = False) -> None:
    command = getattr(fcntl, "F_OFD_SETLKW" if patient else "F_OFD_SETLK", None)
    if command is None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind | (0 if patient else fcntl.LOCK_NB))
    else:  # struct flock of 64-bit Linux: type, whence, start, length (0: all), pid (0: of an open file)
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        fcntl.fcntl(handle, command, struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0))


def csv_text(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table as the text of a CSV file, in the way of all files here: lines end in a newline alone."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises InputError, naming it."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error}). Correct it") from None


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN. Fingerprints are taken of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file. Raises InputError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def parse_json(text: str, path: Path, make: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Strict JSON: no NaN or Infinity, no number beyond float64, no duplicate key. `path` names it in errors.

    make: what stands for an object in place of its dictionary, for inner objects first; may raise InputError.
    """

    def refuse(token: str) -> NoReturn:
        raise ValueError(f"{token} is not a number")

    def finite(token: str) -> float:
        value = float(token)
        return value if abs(value) != float("inf") else refuse(token)

    def unique(pairs: list[tuple[str, Any]]) -> Any:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice")
        return result if make is None else make(result)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged or foreign JSON ({error}). Give another file, or make it again") from None


def read_json(path: Path, limit: int = JSON_LIMIT, make: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value in a JSON file, by the rules of `parse_json`, at most `limit` bytes."""
    try:
        if path.stat().st_size > limit:
            raise InputError(f"{path}: larger than {limit >> 20} MiB, not read. Give another file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file. Give another one") from None
    return parse_json(text, path, make)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
