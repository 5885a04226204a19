"""The store: a folder of volume files with an index, and a private folder beside it that names the sources.

slices/store.json           the volumes in natural order, with their digests
slices/volumes/<key>.h5     one file a volume, never opened again for writing
slices.private/             mode 0700: the key of the hashes, and where every slice came from
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import LARGE_JSON, fingerprint, read_json, write_json
from lim_gpu.spread import spread_evenly
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.header import KEY
from lim_gpu.store.volume import AGAIN, FIELDS, Volume, VolumeEntry
from lim_gpu.strip import SHOWN, strip

FORMAT, VERSION = "lim-gpu-store", 1
MOST_VOLUMES = LARGE_JSON // 320  # of an index: bytes of an entry, without its name
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

    def __repr__(self) -> str:
        slices = sum(entry.shape[0] for entry in self.volumes)
        return f"SliceStore({str(self.path)!r}: {len(self)} volumes, {slices:,} slices)"

    def _repr_html_(self) -> str:
        """For notebooks: the middle slices of some volumes."""
        chosen = [self[int(place)] for place in spread_evenly(len(self), SHOWN)]
        return strip(repr(self), [(one.entry.name or one.key, one.grey(one.entry.shape[0] // 2)) for one in chosen])

    def __enter__(self) -> SliceStore:
        return self

    def __exit__(self, *_: object) -> None:
        for volume in self._volumes.values():
            volume.close()

    def __getstate__(self) -> dict[str, Any]:
        state = {
            name: value for name, value in self.__dict__.items() if name not in ("_entries", "_volumes", "_recent")
        }
        return state | {"found": {key: volume.found for key, volume in self._volumes.items() if volume.found}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        found = state.pop("found")
        self.__dict__.update(state)
        self._close_all()
        for key, percentiles in found.items():
            self[key].found.update(percentiles)

    def _close_all(self) -> None:
        """Begin with every volume closed."""
        self._recent: OrderedDict[str, Volume] = OrderedDict()  # those open, the latest used last
        self._entries = {entry.key: entry for entry in self.volumes}
        self._volumes: dict[str, Volume] = {}  # those that were asked for, of a million perhaps

    def _note_use(self, volume: Volume) -> None:
        self._recent.pop(volume.key, None)  # another thread may just have taken it out
        self._recent[volume.key] = volume
        while len(self._recent) > MOST_OPEN:
            self._recent.popitem(last=False)[1].release()

    def __len__(self) -> int:
        return len(self.volumes)

    def __iter__(self) -> Iterator[Volume]:
        return (self[entry.key] for entry in self.volumes)

    def __getitem__(self, which: str | int) -> Volume:
        key = which if isinstance(which, str) else self.volumes[operator.index(which)].key
        if (volume := self._volumes.get(key)) is None:
            made = Volume(volume_path(self._folder, key), self._entries[key], self._note_use)
            volume = self._volumes.setdefault(key, made)  # another thread may have been faster
        return volume


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
    if store.is_file():
        raise InputError(f"{store}: is a file, no store. Give the folder that lim-gpu ingest wrote")
    if not store.is_dir():
        raise InputError(f"{store}: no such folder. Make a store with lim-gpu ingest SRC -o {store}")
    if not path.is_file():
        raise InputError(
            f"{store}: holds no store.json: no store, or an unfinished one. Run lim-gpu ingest SRC -o slices"
        )
    values = read_json(path, LARGE_JSON, partial(_entry_of, path))
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: not a store of lim-gpu. Give one that ingest made")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: store version {values.get('version')!r}, this program reads {VERSION}. {AGAIN}")
    kinds = {"volumes": list, "parameters": dict, "skipped": dict, "origin": str}
    if any(type(values.get(name)) is not kind for name, kind in kinds.items()):
        raise InputError(f"{path}: damaged. {AGAIN}")
    if any(type(count) is not int for count in values["skipped"].values()):
        raise InputError(f"{path}: a count is no number. {AGAIN}")
    volumes = tuple(values["volumes"])
    if not all(isinstance(entry, VolumeEntry) for entry in volumes):
        raise InputError(f"{path}: an entry has other fields. {AGAIN}")
    if len({entry.key for entry in volumes}) != len(volumes):
        raise InputError(f"{path}: a volume stands twice. {AGAIN}")
    return Index(volumes, values["parameters"], values["skipped"], values["origin"])


def _entry_of(path: Path, values: dict[str, Any]) -> Any:
    """An entry at once, where that is what an object of the index holds: a million as dictionaries would take 1 GB."""
    return VolumeEntry.parse(values, path) if values.keys() == FIELDS else values


def check_count(store: Path, volumes: int) -> None:
    """Raise LimGpuError for more volumes than an index holds, before they are made."""
    if volumes > MOST_VOLUMES:
        told = f"{volumes:,} volumes, and an index holds {MOST_VOLUMES:,}"
        raise LimGpuError(f"{store}: {told}. Ingest parts of the sources into stores of their own")


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
        "volumes": list(volumes),
    }
    write_json(store / "store.json", values, LARGE_JSON)


def standing_volume(store: Path, key: str, origin: str) -> VolumeEntry | None:
    """The entry of a volume file that is there, opens well and was made from `origin` (its header's fingerprint)."""
    try:
        with VolumeFile(volume_path(store, key), key) as file:
            return VolumeEntry.of(file.header, file.digest) if file.header.fingerprint == origin else None
    except InputError:
        return None


def remove_unlisted(store: Path) -> None:
    """Remove volume files that the index does not list: what an overwritten store left."""
    listed = {entry.key for entry in read_index(store).volumes}
    for path in (store / "volumes").glob("*.h5"):
        if KEY.match(path.stem) and path.stem not in listed:
            path.unlink()
