"""NIfTI label maps beside the volumes that a store was made of: of equal names, in another folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lim_gpu.errors import InputError
from lim_gpu.ingest.nifti import nifti_slices, read_nifti
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import Counted, Found, NiftiVolume, SourceError
from lim_gpu.labels.masks import Marked, Mask
from lim_gpu.labels.origins import sources_of
from lim_gpu.store.private import private_folder
from lim_gpu.store.slices import SliceStore

ENDINGS = (".nii", ".nii.gz")
HIGHEST = 255  # label that a mask can name
SAME = 0.1  # of a voxel: how far the corners of a volume and of its label map may be apart


def volumes_by_map(files: Sequence[Found], store: SliceStore, counted: Counter[str]) -> dict[str, str]:
    """The volume of each label map (by its path) that has one: the file of the same name.

    Of volumes of one name (ct.nii.gz in a folder each), the one that shares most folders with the map, from the end.
    Raises InputError where two share as many.
    """
    sources = {sources_of(store, entry.key)[0]["path"]: entry.key for entry in store.volumes}
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in sources:
        by_name[_stem(path)].append(path)
    found = {}
    for file in files:
        candidates = by_name.get(_stem(file.path), [])
        if not candidates or file.path in candidates:
            counted["label maps without a volume of that name"] += 1
        else:
            found[file.path] = sources[_nearest(file.path, candidates)]
    return found


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")


def _nearest(path: str, candidates: Sequence[str]) -> str:
    shared = [_shared_folders(path, other) for other in candidates]
    if shared.count(max(shared)) > 1:
        others = f"{shared.count(max(shared))} volumes of that name"
        raise InputError(f"{path}: {others}. Put label maps into folders named as those of the volumes")
    return candidates[shared.index(max(shared))]


def _shared_folders(path: str, other: str) -> int:
    """How many folders have equal names, counted from the file upwards."""
    equal = [a == b for a, b in zip(Path(path).parts[-2::-1], Path(other).parts[-2::-1], strict=False)]
    return equal.index(False) if False in equal else len(equal)


def read_map(path: str, store: Path, key: str) -> Marked:
    """The slices of a label map that hold labels, in the order of its volume (in a child process).

    Raises SourceError for a file that cannot be used, InputError for one that lies elsewhere than its volume.
    """
    silence()
    size = Path(path).stat()
    content = read_nifti(Found(path, Path(path).name, 0, size.st_size, size.st_mtime_ns), label_map=True)
    if isinstance(content, SourceError):
        raise content
    if isinstance(content, Counted) or not isinstance(content, NiftiVolume):
        raise SourceError("no NIfTI volume")
    _check_place(content, store, key)
    slices = enumerate(nifti_slices(content, private_folder(store)))
    masks = {i: _mask(decoded.pixels) for i, decoded in slices}
    return Marked(key, {i: mask for i, mask in masks.items() if mask.any()})


def _mask(pixels: np.ndarray) -> Mask:
    if pixels.min() < 0 or pixels.max() > HIGHEST:
        raise SourceError("no label map", f"labels are 0 to {HIGHEST}, and this holds {pixels.min()}..{pixels.max()}")
    return pixels.astype(np.uint8)


def _check_place(content: NiftiVolume, store: Path, key: str) -> None:
    with SliceStore(store) as opened, opened[key] as volume:
        shape, affine, spacing = volume.entry.shape, volume.header.affine, volume.header.spacing
    if content.shape != shape:
        drawn, own = (" x ".join(map(str, one)) for one in (content.shape, shape))
        raise InputError(f"has {drawn} voxels, its volume {own}. Resample it to the volume")
    corners = np.array([[x, y, z, 1] for x in (0, shape[2]) for y in (0, shape[1]) for z in (0, shape[0])])
    if affine is not None and spacing is not None and "no_affine" not in content.marks:
        apart = np.abs(corners @ (np.array(affine) - np.array(content.affine)).T).max()
        if apart > SAME * min(spacing):
            raise InputError(f"lies {apart:.2f} mm beside its volume. Resample it to the volume")
