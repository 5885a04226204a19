"""The data of a fine-tuning: a folder of pictures or an .npz, or the slices of a store that a table labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lim_gpu.errors import UsageError
from lim_gpu.finetune.request import Request
from lim_gpu.labelled.groups import read_groups
from lim_gpu.labelled.table import Table, read_table
from lim_gpu.labels.table import StoreTable, read_labels
from lim_gpu.progress import Reporter

if TYPE_CHECKING:
    from lim_gpu.labelled.images import Images


def read_data(request: Request, reporter: Reporter) -> Table:
    """What is known of the images. Raises InputError for what is missing, UsageError for a store without its table."""
    table = _listed(request, reporter)
    if request.ignore_split:
        table = replace(table, split=None)
    return table if request.groups is None else replace(table, alike=read_groups(request.groups, table.files))


def _listed(request: Request, reporter: Reporter) -> Table:
    if request.labels is not None:
        return read_labels(request.labels, request.data, request.target, reporter, masks=request.segments)
    if (request.data / "store.json").is_file():
        raise UsageError(f"{request.data}: is a store. Give the table of its labels as `labels`")
    return read_table(request.data, request.split, masks=request.segments)


def load_data(request: Request, table: Table, reporter: Reporter) -> Images:
    """The images themselves, 0..255, as large as the protocol says."""
    from lim_gpu.labelled.images import load_images
    from lim_gpu.labels.images import load_slices

    size, resize = request.protocol.size, request.protocol.resize
    if isinstance(table, StoreTable):
        return load_slices(table, size, resize, request.intensity, request.context, reporter)
    return load_images(table, size, resize, reporter)
