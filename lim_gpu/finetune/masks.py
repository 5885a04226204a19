"""The masks of a table's images as one tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lim_gpu.errors import InputError
from lim_gpu.labelled.table import Table
from lim_gpu.labels.masks import read_mask
from lim_gpu.labels.table import StoreTable
from lim_gpu.pictures import decode_picture
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

HALF = 0.5  # of a pixel: from there on it is marked when a mask becomes smaller


def load_masks(table: Table, size: int, reporter: Reporter) -> Tensor:
    """(n, 1, size, size) uint8, 1 where something is marked; what half of a pixel's area or more is, is marked.

    Raises InputError for a mask that cannot be read, or that has another size than its image.
    """
    shapes = image_shapes(table)
    masks = torch.zeros(len(table), 1, size, size, dtype=torch.uint8)
    with reporter.track("read masks", len(table), "images") as advance:
        for place in range(len(table)):
            path = table.mask_path(place)
            if path is not None:
                mask = read_mask(path)
                if mask.shape != shapes[place]:
                    drawn, own = (" x ".join(map(str, shape)) for shape in (mask.shape, shapes[place]))
                    raise InputError(f"{path}: is {drawn}, and its image {table.files[place]} {own}. Give its own mask")
                whole = torch.from_numpy(mask)[None, None].float()
                masks[place] = (interpolate(whole, (size, size), mode="area") >= HALF)[0].byte()
            advance(1)
    return masks


def image_shapes(table: Table) -> list[tuple[int, int]]:
    """(H, W) of every image as it is stored."""
    if isinstance(table, StoreTable):
        with SliceStore(table.path) as store:
            return [store[place.volume].entry.shape[1:] for place in table.places]
    shapes = [decode_picture(table.path / name, colour=True)[0].shape for name in table.files]
    return [(shape[0], shape[1]) for shape in shapes]
