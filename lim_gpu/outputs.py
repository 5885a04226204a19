"""Where results go: what stands there already, and whether anything can be written there, asked before the work."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError, unwritable
from lim_gpu.files import read_json

OF_FILES = ".csv .tsv .txt .json .jsonl .npy .npz .png .jpg .html .md .toml .ckpt .pt .pth .safetensors .h5 .parquet"


def check_file(path: Path, *, replaced: bool = False) -> None:
    """Raise where no file can be made at `path`: UsageError where a folder stands, else LimGpuError.

    replaced: a file that stands there will be; otherwise it may stay, and nothing is asked of its folder.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder. Give the name of a file")
    if replaced or not path.exists():
        _check_room(path)


def check_folder(path: Path, *, holds: str = "") -> None:
    """Raise where no folder can be made at `path`: UsageError for a file and the name of one, else LimGpuError.

    holds: what will be in it, for one who took it for a file. Of a folder that stands its lock tells the rest.
    """
    if path.is_dir():
        return
    if path.exists():
        raise UsageError(f"{path}: is a file. Give a folder")
    if path.suffix.lower() in OF_FILES.split():
        raise UsageError(f"{path}: has the name of a file, and a folder is made. Give {path.with_suffix('')}{holds}")
    _check_room(path)


def _check_room(path: Path) -> None:
    """Raise LimGpuError where the nearest folder above `path` that stands takes no new entry, or is none."""
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise unwritable(path, NotADirectoryError(errno.ENOTDIR, f"{above} is no folder"))
    if not os.access(above, os.W_OK | os.X_OK):
        raise unwritable(path, PermissionError(errno.EACCES, f"{above} takes no new files"))


def standing_record(json_path: Path, asked: str, outputs: Sequence[Path], overwrite: bool) -> dict[str, Any] | None:
    """The JSON of outputs that stand, all of them, and were made of the same; its `fingerprint` tells.

    None where nothing stands, or what stands may be replaced. Raises UsageError for other outputs without `overwrite`,
    and as `check_file` where they cannot be written.
    """
    standing = [path for path in outputs if path.exists()]
    try:
        record = read_json(json_path) if standing else None
    except InputError:
        record = None
    whole = len(standing) == len(outputs)
    if whole and isinstance(record, dict) and record.get("fingerprint") == asked:
        return record
    if standing and not overwrite:
        raise made_otherwise(standing[0])
    for path in outputs:
        check_file(path, replaced=True)
    return None


def made_otherwise(path: Path) -> UsageError:
    """What to raise where another output stands at `path`."""
    return UsageError(f"{path}: exists and was made otherwise. Give --overwrite, or another -o")
