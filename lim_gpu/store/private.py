"""The private folder beside a store (`STORE.private`, mode 0700): the key of its hashes, the origin of every slice."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import parse_json, write_once, write_text
from lim_gpu.store.volume import AGAIN
from lim_gpu.store.volume import Volume as Volume
from lim_gpu.store.volume import VolumeEntry as VolumeEntry


def private_folder(store: Path) -> Path:
    """`STORE.private` beside the store, made with mode 0700 where it is missing."""
    folder = _private_path(store)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LimGpuError(f"{folder}: cannot be made ({error.strerror}). Choose another place for the store") from error
    return folder


def _private_path(store: Path) -> Path:
    return store.resolve().with_name(store.resolve().name + ".private")


def private_key(store: Path) -> bytes:
    """The random key (32 bytes) of the store's hashes, made once, mode 0600."""
    path = private_folder(store) / "key"
    if not path.exists():  # of several that begin at once the first makes it
        write_once(path, secrets.token_hex(32) + "\n", mode=0o600)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise InputError(f"{path}: damaged. Restore it, or move it away to get other keys")
    return key


def sources_folder(store: Path) -> Path | None:
    """Where a file a volume, KEY.jsonl, names the source of every slice; None where that does not lie beside."""
    folder = _private_path(store) / "sources"
    return folder if folder.is_dir() else None


def write_sources(store: Path, key: str, rows: Sequence[dict[str, Any]]) -> None:
    """Remember privately where each slice of volume `key` came from: path, sop_uid, frame."""
    folder = private_folder(store) / "sources"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_text(folder / f"{key}.jsonl", "".join(json.dumps(row) + "\n" for row in rows), mode=0o600)


def read_sources(store: Path, key: str) -> list[dict[str, Any]]:
    """The rows of `write_sources`, one a slice. Raises InputError when they are not there, or damaged."""
    path = _private_path(store) / "sources" / f"{key}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        remedy = f"Bring the folder {path.parents[1].name} back beside the store, or run lim-gpu ingest again"
        raise InputError(f"{path}: the private list of the sources is not there. {remedy}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: damaged. {AGAIN}") from None
    rows = [parse_json(line, path) for line in lines]
    if not all(isinstance(row, dict) and isinstance(row.get("path"), str) for row in rows):
        raise InputError(f"{path}: damaged. {AGAIN}")
    return rows


def carry_private(store: Path, target: Path, kept: Mapping[str, Sequence[int]]) -> bool:
    """Give a store made of slices `kept` (by volume) of another the other's key, and the sources of these slices.

    So its keys are found again where the same sources are ingested with that key. Returns whether all was there.
    """
    private = _private_path(store)
    if (private / "key").exists():
        write_text(private_folder(target) / "key", private_key(store).hex() + "\n", mode=0o600)
    known = [key for key in kept if (private / "sources" / f"{key}.jsonl").exists()]
    for key in known:
        rows = read_sources(store, key)
        write_sources(target, key, [rows[i] for i in kept[key]])
    return len(known) == len(kept)
