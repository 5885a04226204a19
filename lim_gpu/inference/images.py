"""Images that a network is to look at, each with what names it: a store, pictures, or DICOM and NIfTI files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from lim_gpu.errors import InputError
from lim_gpu.files import file_sha256, fingerprint
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.parts import pictures_below
from lim_gpu.natural import natural_key
from lim_gpu.pictures import ENDINGS
from lim_gpu.progress import Reporter
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import check_limits
from lim_gpu.store.volume import Volume

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX = "store.json"
BLOCK = 64  # images read together
Row = tuple[Any, ...]
Blocks = Iterator["NDArray[np.uint8]"]  # (m, C, H, W), C 1 for grey, 3 for colour


@dataclass(frozen=True)
class Group:
    """Images that are read, or fail, together: functions that tell what names each, and read them block by block."""

    name: str
    count: int
    rows: Callable[[], list[Row]]
    blocks: Callable[[Intensity], Blocks]


class Images(Protocol):
    """columns: what names an image; private: that names files, and is nobody else's to read."""

    columns: tuple[str, ...]
    private: bool

    @property
    def fingerprint(self) -> str:
        """Changes with any image, its name or the order."""

    def __len__(self) -> int: ...

    def check(self, intensity: Intensity) -> str:
        """What to say of mapping them so, "" for nothing. Raises UsageError where it means nothing."""

    def groups(self) -> Iterator[Group]:
        """All of them in their order."""


class StoreImages:
    """The slices of a store, named as in a selection."""

    columns: tuple[str, ...] = ("volume", "slice", "z_mm")
    private = False

    def __init__(self, path: Path) -> None:
        self.store = SliceStore(path)

    @property
    def fingerprint(self) -> str:  # noqa: D102
        return self.store.fingerprint

    def __len__(self) -> int:
        return sum(entry.shape[0] for entry in self.store.volumes)

    def check(self, intensity: Intensity) -> str:  # noqa: D102
        return check_limits(self.store.path, self.store.volumes, intensity)

    def groups(self) -> Iterator[Group]:  # noqa: D102
        for entry in self.store.volumes:
            with self.store[entry.key] as volume:
                yield Group(entry.key, entry.shape[0], partial(self._rows, volume), partial(_slices, volume))

    def _rows(self, volume: Volume) -> list[Row]:
        return [(volume.key, i, float(z)) for i, z in enumerate(volume.z)]


class FileImages(StoreImages):
    """The slices of a store that was made of `data` for this once, named by their files."""

    columns: tuple[str, ...] = ("file", "sop_uid", "slice", "z_mm")
    private = True

    def __init__(self, path: Path, data: Path) -> None:
        super().__init__(path)
        self._data = data.absolute() if data.is_dir() else data.absolute().parent

    def _rows(self, volume: Volume) -> list[Row]:
        sources = read_sources(self.store.path, volume.key)
        pairs = zip(sources, volume.z, strict=True)
        return [(self._named(source), source.get("sop_uid", ""), i, float(z)) for i, (source, z) in enumerate(pairs)]

    def _named(self, source: dict[str, Any]) -> str:
        path = Path(source["path"])
        return str(path.relative_to(self._data)) if path.is_relative_to(self._data) else str(path)


class Pictures:
    """PNG and JPEG files, one or all below a folder, in natural order."""

    columns: tuple[str, ...] = ("file",)
    private = False

    def __init__(self, path: Path) -> None:
        self._folder = path if path.is_dir() else path.parent
        files = pictures_below(path) if path.is_dir() else [path]
        self._names = sorted((str(file.relative_to(self._folder)) for file in files), key=natural_key)

    @cached_property
    def fingerprint(self) -> str:  # noqa: D102
        return fingerprint([[name, file_sha256(self._folder / name)] for name in self._names])

    def __len__(self) -> int:
        return len(self._names)

    def check(self, intensity: Intensity) -> str:  # noqa: D102
        return "pictures hold no HU: taken as they are" if intensity.limits else ""

    def groups(self) -> Iterator[Group]:  # noqa: D102
        for name in self._names:
            yield Group(name, 1, partial(list, [(name,)]), partial(_picture, self._folder / name))


@contextmanager
def opened(data: Path, scratch: Path, reporter: Reporter) -> Iterator[Images]:
    """The images of a store, of pictures, or of DICOM and NIfTI files, from which a store is made below `scratch`.

    It goes when the block ends. Raises InputError for what is none of these.
    """
    if not _is_ingested(data):
        yield StoreImages(data) if (data / INDEX).is_file() else Pictures(data)
        return
    from lim_gpu.ingest import ingest

    with TemporaryDirectory(prefix=".lim-gpu-", dir=scratch) as folder:
        store = Path(folder) / "slices"
        ingest([data], store, modality="any", keep_identifiers=True, reporter=reporter)
        yield FileImages(store, data)


def planned(data: Path) -> Images | None:
    """As `opened`; None where a store would have to be made."""
    if _is_ingested(data):
        return None
    return StoreImages(data) if (data / INDEX).is_file() else Pictures(data)


def _is_ingested(data: Path) -> bool:
    if not data.exists():
        raise InputError(f"{data}: does not exist. Give a store, pictures, or DICOM or NIfTI files")
    if data.is_file():
        return data.suffix.lower() not in ENDINGS
    return not (data / INDEX).is_file() and not pictures_below(data)


def _slices(volume: Volume, intensity: Intensity) -> Blocks:
    seen = intensity.of_volume(volume)
    for start in range(0, volume.entry.shape[0], BLOCK):
        yield seen.to_uint8(volume.read(start, min(start + BLOCK, volume.entry.shape[0])))[:, None]


def _picture(path: Path, _intensity: Intensity) -> Blocks:
    from lim_gpu.labelled.images import decode

    yield decode(path)[None]
