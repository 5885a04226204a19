"""The store: a folder of volume files with an index, and a private folder beside it that names the sources.

slices/store.json           the volumes in natural order, with their digests
slices/volumes/<key>.h5     one file a volume, never opened again for writing
slices.private/             mode 0700: the key of the hashes, and where every slice came from
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import fingerprint, locked, parse_json, read_json, remove_stale, write_text
from lim_gpu.progress import Reporter
from lim_gpu.volume_file import MAX_SIDE, MAX_SLICES, VolumeFile, VolumeWriter
from lim_gpu.volume_header import DTYPES, KEY, VolumeHeader
from lim_gpu.workers import run_in_children

if TYPE_CHECKING:
    from lim_gpu.selection import VolumeSelection

FORMAT, VERSION = "lim-gpu-store", 1
AGAIN = "Run lim-gpu ingest again"


@dataclass(frozen=True)
class VolumeEntry:
    """A volume as the index knows it. shape (n, H, W); digest: SHA-256 (hex) of the whole volume."""

    key: str
    patient: str
    name: str
    shape: tuple[int, int, int]
    dtype: str
    modality: str
    digest: str

    @classmethod
    def of(cls, header: VolumeHeader, digest: str) -> VolumeEntry:
        """The entry of a volume that was written."""
        values = {field.name: getattr(header, field.name) for field in fields(cls) if field.name != "digest"}
        return cls(digest=digest, **values)

    @classmethod
    def parse(cls, values: Any, path: Path) -> VolumeEntry:
        """Raises InputError, naming `path`, for anything but an entry; a key can never lead out of the folder."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise InputError(f"{path}: an entry has other fields. {AGAIN}")
        texts = all(isinstance(values[name], str) for name in names - {"shape"})
        if (
            not texts
            or not KEY.match(values["key"])
            or not KEY.match(values["patient"])
            or values["dtype"] not in DTYPES
        ):
            raise InputError(f"{path}: an entry is ill-formed. {AGAIN}")
        shape = values["shape"]
        if not isinstance(shape, list) or len(shape) != 3 or not all(type(i) is int and i > 0 for i in shape):
            raise InputError(f"{path}: an entry has no shape. {AGAIN}")
        return cls(**(values | {"shape": tuple(shape)}))


class Volume:
    """A volume of a store; its file is opened and checked at the first use, once in each process.

    Pickles without its handle. Every method raises InputError, one line with the file's name, for a damaged file.
    """

    def __init__(self, path: Path, entry: VolumeEntry) -> None:
        self.path = path
        self.entry = entry
        self._file: VolumeFile | None = None
        self._process = 0

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "entry": self.entry, "_file": None, "_process": 0}

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    @property
    def key(self) -> str:
        """16 hex digits."""
        return self.entry.key

    @property
    def header(self) -> VolumeHeader:
        """Geometry, intensity and defects."""
        return self._opened().header

    @property
    def z(self) -> NDArray[np.float64]:
        """Positions (n,) along the normal in mm, ascending."""
        return self._opened().z

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Slices start..stop-1, (m, H, W), int16 or uint8."""
        return self._opened().read(start, stop)

    def read_slice(self, i: int) -> NDArray[Any]:
        """Slice i, (H, W)."""
        return self._opened().read(i, i + 1)[0]

    def verify(self) -> None:
        """Read every slice and compare its SHA-256."""
        self._opened().verify()

    def _opened(self) -> VolumeFile:
        if self._file is None or self._process != os.getpid():
            self._file = VolumeFile(self.path, self.key, self.entry.digest)
            self._process = os.getpid()
            if self._file.header.shape != self.entry.shape or self._file.header.dtype != self.entry.dtype:
                raise InputError(f"{self.path}: is not the volume of the index. {AGAIN}")
        return self._file


class SliceStore:
    """The volumes under a folder, in natural order of their sources. Reads store.json alone; files open when used.

    path         the folder
    volumes      tuple of VolumeEntry
    fingerprint  SHA-256 (hex) of the ordered keys and digests: changes with any pixel or position
    parameters   how it was ingested; skipped: what was left out then, by kind

    Indexing by key or position, and iterating, give `Volume`. Raises InputError when there is no readable index.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.volumes = index.volumes
        self.parameters = index.parameters
        self.skipped = index.skipped
        self.fingerprint = fingerprint([[entry.key, entry.digest] for entry in self.volumes])
        self._volumes = {entry.key: Volume(volume_path(self.path, entry.key), entry) for entry in self.volumes}

    def __enter__(self) -> SliceStore:
        return self

    def __exit__(self, *_: object) -> None:
        for volume in self._volumes.values():
            volume.close()

    def __len__(self) -> int:
        return len(self.volumes)

    def __iter__(self) -> Iterator[Volume]:
        return iter(self._volumes.values())

    def __getitem__(self, which: str | int) -> Volume:
        key = self.volumes[which].key if isinstance(which, int) else which
        return self._volumes[key]


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
        raise InputError(f"{store}: holds no store.json: no store, or an unfinished ingest. {AGAIN}")
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: not a store of lim-gpu")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: store version {values.get('version')!r}, this program reads {VERSION}")
    parts = (values.get("volumes"), values.get("parameters"), values.get("skipped"), values.get("origin"))
    if [type(part) for part in parts] != [list, dict, dict, str]:
        raise InputError(f"{path}: damaged. {AGAIN}")
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
    folder = store.resolve().with_name(store.resolve().name + ".private")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


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
    """The rows of `write_sources`, one a slice. Raises InputError when they are not there."""
    path = private_folder(store) / "sources" / f"{key}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise InputError(f"{path}: the private sources are not beside the store") from None
    return [parse_json(line, path) for line in lines]


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
) -> None:
    """Copy the kept slices of `selections` into a new store at `folder`; volumes that stand already are used again.

    Raises UsageError when another store stands there and `overwrite` is not given, LimGpuError when a copy fails.
    """
    reporter = reporter or Reporter(quiet=True)
    tasks = [
        (store.path, folder, store[selection.key].entry, np.flatnonzero(selection.kept).tolist())
        for selection in selections
        if selection.kept.any()
    ]
    origin = fingerprint([[entry.digest, kept] for _path, _folder, entry, kept in tasks])
    if (folder / "store.json").exists():
        if read_index(folder).origin == origin:
            reporter.note(f"unchanged: {folder}")
            return
        if not overwrite:
            raise UsageError(f"{folder}: holds another store. Give --overwrite, or another --write")
    entries: dict[int, VolumeEntry] = {}
    with locked(folder), reporter.track("write", len(tasks), "volumes") as advance:
        remove_stale(folder / "volumes")
        for outcome in run_in_children(copy_selected, tasks, workers=1):
            if outcome.error is not None:
                raise LimGpuError(outcome.error)
            entries[outcome.task] = outcome.value
            advance(1)
        parameters = store.parameters | {"selected_from": store.fingerprint}
        write_index(folder, [entries[i] for i in range(len(tasks))], parameters, store.skipped, origin)
        remove_unlisted(folder)


def copy_selected(store: Path, folder: Path, entry: VolumeEntry, kept: list[int]) -> VolumeEntry:
    """Write the slices `kept` of one volume as a volume of the store `folder`; runs in a child process."""
    origin = fingerprint([entry.digest, kept])
    standing = standing_volume(folder, entry.key, origin)
    if standing is not None:
        return standing
    with Volume(volume_path(store, entry.key), entry) as volume:
        _, height, width = entry.shape
        header = replace(
            volume.header, shape=(len(kept), height, width), fingerprint=origin, selected_from=entry.digest
        )
        with VolumeWriter(folder / "volumes", entry.key, len(kept), height, width, entry.dtype, None) as writer:
            for i in kept:
                writer.append(volume.read_slice(i))
            digest = writer.finish(header, volume.z[kept])
    return VolumeEntry.of(header, digest)


def remove_unlisted(store: Path) -> None:
    """Remove volume files that the index does not list: what an overwritten store left."""
    listed = {entry.key for entry in read_index(store).volumes}
    for path in (store / "volumes").glob("*.h5"):
        if KEY.match(path.stem) and path.stem not in listed:
            path.unlink()
