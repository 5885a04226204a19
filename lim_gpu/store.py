"""The store: a folder of volume files with an index, and a private folder beside it that names the sources.

slices/store.json           the volumes in natural order, with their digests
slices/volumes/<key>.h5     one file a volume, never opened again for writing
slices.private/             mode 0700: the key of the hashes, and where every slice came from
"""

from __future__ import annotations

import json
import operator
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import fingerprint, locked, parse_json, read_json, remove_stale, write_text
from lim_gpu.progress import Reporter
from lim_gpu.volume import AGAIN
from lim_gpu.volume import Volume as Volume
from lim_gpu.volume import VolumeEntry as VolumeEntry
from lim_gpu.volume_file import VolumeFile, VolumeWriter
from lim_gpu.volume_header import KEY
from lim_gpu.workers import run_in_children

if TYPE_CHECKING:
    from lim_gpu.selection import VolumeSelection

FORMAT, VERSION = "lim-gpu-store", 1
MOST_OPEN = 128  # files of a store: each takes a descriptor, of which many systems give 1,024, and a megabyte


class SliceStore:
    """The volumes under a folder, in natural order of their sources. Reads store.json alone; files open when used.

    path         the folder
    volumes      tuple of VolumeEntry
    fingerprint  SHA-256 (hex) of the ordered keys and digests: changes with any pixel or position
    parameters   how it was ingested; skipped: what was left out then, by kind

    Indexing by key or position, and iterating, give `Volume`; at most 128 of them are open, the others open again when
    they are used. Pickles without handles. Raises InputError when there is no readable index.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.volumes = index.volumes
        self.parameters = index.parameters
        self.skipped = index.skipped
        self.fingerprint = fingerprint([[entry.key, entry.digest] for entry in self.volumes])
        self._folder = self.path.absolute()  # files open later, when the working folder may be another
        self._close_all()

    def __enter__(self) -> SliceStore:
        return self

    def __exit__(self, *_: object) -> None:
        for volume in self._volumes.values():
            volume.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_volumes", "_recent")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close_all()

    def _close_all(self) -> None:
        """Begin with every volume closed."""
        self._recent: OrderedDict[str, Volume] = OrderedDict()  # those open, the latest used last
        self._volumes = {
            entry.key: Volume(volume_path(self._folder, entry.key), entry, self._note_use) for entry in self.volumes
        }

    def _note_use(self, volume: Volume) -> None:
        self._recent.pop(volume.key, None)  # another thread may just have taken it out
        self._recent[volume.key] = volume
        while len(self._recent) > MOST_OPEN:
            self._recent.popitem(last=False)[1].release()

    def __len__(self) -> int:
        return len(self.volumes)

    def __iter__(self) -> Iterator[Volume]:
        return iter(self._volumes.values())

    def __getitem__(self, which: str | int) -> Volume:
        return self._volumes[which if isinstance(which, str) else self.volumes[operator.index(which)].key]


@dataclass(frozen=True)
class Index:
    """What store.json holds. `origin` is the fingerprint of sources and options that the store was made from."""

    volumes: tuple[VolumeEntry, ...]
    parameters: dict[str, Any]
    skipped: dict[str, int]
    origin: str


def volume_path(store: Path, key: str) -> Path:
    """Where volume `key` lies."""
    return store / "volumes" / f"{key}.h5"


def read_index(store: Path) -> Index:
    """Parse store.json. Raises InputError for a folder that is missing, unfinished or something else."""
    path = store / "store.json"
    if not store.is_dir():
        raise InputError(f"{store}: no such folder. Make a store with lim-gpu ingest SRC -o {store}")
    if not path.is_file():
        raise InputError(
            f"{store}: holds no store.json: no store, or an unfinished one. Run lim-gpu ingest SRC -o slices"
        )
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: not a store of lim-gpu")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: store version {values.get('version')!r}, this program reads {VERSION}")
    kinds = {"volumes": list, "parameters": dict, "skipped": dict, "origin": str}
    if any(type(values.get(name)) is not kind for name, kind in kinds.items()):
        raise InputError(f"{path}: damaged. {AGAIN}")
    if any(type(count) is not int for count in values["skipped"].values()):
        raise InputError(f"{path}: a count is no number. {AGAIN}")
    volumes = tuple(VolumeEntry.parse(entry, path) for entry in values["volumes"])
    if len({entry.key for entry in volumes}) != len(volumes):
        raise InputError(f"{path}: a volume stands twice. {AGAIN}")
    return Index(volumes, values["parameters"], values["skipped"], values["origin"])


def write_index(
    store: Path, volumes: Sequence[VolumeEntry], parameters: dict[str, Any], skipped: dict[str, int], origin: str
) -> None:
    """Write store.json in one step; with it the store is whole. `volumes` in natural order of their sources."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "origin": origin,
        "parameters": parameters,
        "skipped": skipped,
        "volumes": [asdict(entry) for entry in volumes],
    }
    write_text(store / "store.json", json.dumps(values, indent=1, allow_nan=False) + "\n")


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
    if not path.exists():
        write_text(path, secrets.token_hex(32) + "\n", mode=0o600)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise InputError(f"{path}: damaged. Restore it, or move it away to get other keys")
    return key


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
        raise InputError(f"{path}: the private sources of the store cannot be read") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: damaged. {AGAIN}") from None
    rows = [parse_json(line, path) for line in lines]
    if not all(isinstance(row, dict) and isinstance(row.get("path"), str) for row in rows):
        raise InputError(f"{path}: damaged. {AGAIN}")
    return rows


def standing_volume(store: Path, key: str, origin: str) -> VolumeEntry | None:
    """The entry of a volume file that is there, opens well and was made from `origin` (its header's fingerprint)."""
    try:
        with VolumeFile(volume_path(store, key), key) as file:
            return VolumeEntry.of(file.header, file.digest) if file.header.fingerprint == origin else None
    except InputError:
        return None


def write_selected(
    store: SliceStore,
    selections: Sequence[VolumeSelection],
    folder: Path,
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> list[str]:
    """Copy the kept slices of `selections` into a new store at `folder`; volumes that stand already are used again.

    Returns a line for each volume that cannot be read: it is said through `reporter` and left out. Raises UsageError
    for the store itself, or another store at `folder` without `overwrite`; InputError when no volume can be read;
    LimGpuError when the disk is full.
    """
    reporter = reporter or Reporter(quiet=True)
    if folder.resolve() == store.path.resolve():
        raise UsageError(f"{folder}: is the store that is read. Choose another --write")
    tasks = [  # absolute paths: the children keep the working directory in which the first of them started
        (store.path.resolve(), folder.resolve(), store[selection.key].entry, np.flatnonzero(selection.kept).tolist())
        for selection in selections
        if selection.kept.any()
    ]
    origin = fingerprint([[entry.digest, kept] for _path, _folder, entry, kept in tasks])
    if (folder / "store.json").exists():
        standing = read_index(folder)
        if standing.origin == origin and len(standing.volumes) == len(tasks):
            reporter.note(f"unchanged: {folder}")
            return []
        if standing.origin != origin and not overwrite:
            raise UsageError(f"{folder}: holds another store. Give --overwrite, or another --write")
    with locked(folder):
        remove_stale(folder / "volumes")
        entries, failures = _copy_all(tasks, reporter)
        if not entries:
            raise InputError(f"{store.path}: no volume can be read. {AGAIN}")
        parameters = store.parameters | {"selected_from": store.fingerprint}
        write_index(folder, entries, parameters, store.skipped, origin)
        remove_unlisted(folder)
    return failures


def _copy_all(
    tasks: Sequence[tuple[Path, Path, VolumeEntry, list[int]]], reporter: Reporter
) -> tuple[list[VolumeEntry], list[str]]:
    """The entries of the copies, in order, and a line for each volume that cannot be read."""
    done: dict[int, VolumeEntry | InputError] = {}
    with reporter.track("write", len(tasks), "volumes") as advance:
        for outcome in run_in_children(copy_selected, tasks, workers=1):
            if outcome.error is not None:
                raise LimGpuError(outcome.error)
            if isinstance(outcome.value, InputError):
                reporter.error(outcome.value)
            done[outcome.task] = outcome.value
            advance(1)
    results = [done[i] for i in range(len(tasks))]
    entries = [result for result in results if isinstance(result, VolumeEntry)]
    return entries, [str(result) for result in results if isinstance(result, InputError)]


def copy_selected(store: Path, folder: Path, entry: VolumeEntry, kept: list[int]) -> VolumeEntry | InputError:
    """Write the slices `kept` of one volume as a volume of the store `folder`; runs in a child process.

    Returns what is wrong with the volume when it cannot be read. Raises LimGpuError when the disk refuses.
    """
    origin = fingerprint([entry.digest, kept])
    standing = standing_volume(folder, entry.key, origin)
    if standing is not None:
        return standing
    _, height, width = entry.shape
    try:
        with Volume(volume_path(store, entry.key), entry) as volume:
            header = volume.header.selected(kept, volume.z, entry.digest, origin)
            with VolumeWriter(folder / "volumes", entry.key, len(kept), height, width, entry.dtype, None) as writer:
                for i in kept:
                    writer.append(volume.read_slice(i))
                digest = writer.finish(header, volume.z[kept])
    except InputError as error:
        return error
    return VolumeEntry.of(header, digest)


def remove_unlisted(store: Path) -> None:
    """Remove volume files that the index does not list: what an overwritten store left."""
    listed = {entry.key for entry in read_index(store).volumes}
    for path in (store / "volumes").glob("*.h5"):
        if KEY.match(path.stem) and path.stem not in listed:
            path.unlink()
