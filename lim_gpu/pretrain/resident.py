"""Where the slices of a training lie: on the device, or in the store, from which the same batches stream."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lim_gpu.augment import to_device
from lim_gpu.dataset import SliceDataset
from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.pairs import PairedSlices
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import SelectedSlices

AHEAD = 3  # batches that are read before they are needed
LOADED_AT_ONCE = 64  # slices
THREADS = 8  # that read: HDF5 takes one at a time, the mapping to 0..255 takes most of the time


class SliceBatch(NamedTuple):
    """Slices of a training step; B slices, each in the upper left corner of H x W, padded with 0.

    pixels   uint8 (B, H, W), on the device
    sizes    int64 (B, 2), valid height and width; on the CPU, where crop boxes are drawn
    ids      int64 (B,), place among the kept slices of the store; on the device
    volumes  int64 (B,), number of the volume in the store; on the device
    following  as pixels, the next slice of each, where the method asks for it
    """

    pixels: Tensor
    sizes: Tensor
    ids: Tensor
    volumes: Tensor
    following: Tensor | None = None


class StreamedSlices:
    """Slices that stay in their store: threads read them a few batches ahead, into pinned memory where there is a GPU.

    Mapped to 0..255 by `intensity`. Raises InputError where there is no slice; `batches` raises it for a damaged file.
    """

    def __init__(
        self,
        slices: SelectedSlices,
        device: torch.device | str = "cpu",
        intensity: Intensity | None = None,
    ) -> None:
        self.dataset = SliceDataset(slices, intensity=intensity or Intensity())
        self.read_also: list[SliceDataset] = []
        if isinstance(slices, PairedSlices):
            following = SelectedSlices(slices.store, slices.selection, slices.following)
            self.read_also = [SliceDataset(following, intensity=self.dataset.intensity)]
        if not len(slices):
            remedy = f"Run lim-gpu {'ingest' if slices.selection is None else 'reduce'} again, so that it keeps some"
            raise InputError(f"{slices.source}: holds no slice to train on. {remedy}")
        self.device = torch.device(device)
        self.volumes = torch.from_numpy(self.dataset.places[:, 0]).long()
        shapes = torch.tensor([entry.shape[1:] for entry in self.dataset.store.volumes])
        self.sizes = shapes[self.volumes]
        readings = 1 + len(self.read_also)
        self.shape = torch.Size((readings, len(self.dataset), *self.sizes.amax(dim=0).tolist()))  # all in one array

    def __len__(self) -> int:
        return len(self.dataset)

    def is_blank(self) -> bool:
        """Whether each slice is of one grey; the first that is not, mostly the middle one, ends the search."""
        images = (self.dataset[i] for i in (len(self) // 2, *range(len(self))))
        return all(bool((image == image[0, 0, 0]).all()) for image in images)

    def to(self, device: torch.device | str) -> StreamedSlices:
        """The same slices for another device."""
        other = copy(self)
        other.device = torch.device(device)
        return other

    def batches(self, order: Iterable[Tensor]) -> Iterator[SliceBatch]:
        """A batch for each tensor of ids (B,) on the CPU."""
        waiting: deque[tuple[Tensor, Tensor, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "slices")
        try:
            for ids in order:
                shape = (self.shape[0], len(ids), *self.shape[2:])
                pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
                futures = [
                    pool.submit(self._read, dataset, number, place)
                    for dataset, places in zip([self.dataset, *self.read_also], pixels, strict=True)
                    for number, place in zip(ids.tolist(), places, strict=True)
                ]
                waiting.append((ids, pixels, futures))
                if len(waiting) > AHEAD:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, dataset: SliceDataset, number: int, place: Tensor) -> None:
        image = dataset[number][0]
        place[: image.shape[0], : image.shape[1]] = image

    def _finished(self, ids: Tensor, pixels: Tensor, futures: list[Future[None]]) -> SliceBatch:
        for future in futures:
            future.result()
        pixels, there, volumes = (to_device(values, self.device) for values in (pixels, ids, self.volumes[ids]))
        return SliceBatch(pixels[0], self.sizes[ids], there, volumes, *pixels[1:])


class ResidentSlices:
    """Slices on the device: one uint8 tensor (n, H, W), padded to the largest, with sizes (n, 2) and volumes (n,).

    following: likewise, the next slice of each; None where nobody asks for it.
    """

    def __init__(self, pixels: Tensor, sizes: Tensor, volumes: Tensor, following: Tensor | None = None) -> None:
        self.pixels, self.following = pixels, following
        self.sizes = sizes.cpu()
        self.volumes = volumes.to(pixels.device)

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(cls, streamed: StreamedSlices, reporter: Reporter | None = None) -> ResidentSlices:
        """The same slices, read. Raises LimGpuError without the memory for them."""
        try:
            pixels = torch.empty(streamed.shape, dtype=torch.uint8, device=streamed.device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's is no more than that
            needed = f"{streamed.shape.numel() / 2**30:.1f} GiB"
            raise LimGpuError(
                f"{streamed.device}: {needed} of slices do not fit in its memory. Give --stream, or select fewer"
            ) from error
        done = 0
        with (reporter or Reporter(quiet=True)).track("load", len(streamed), "slices") as advance:
            for batch in streamed.batches(torch.arange(len(streamed)).split(LOADED_AT_ONCE)):
                for place, values in zip(pixels, (batch.pixels, batch.following), strict=False):
                    place[done : done + len(batch.ids)] = values
                done += len(batch.ids)
                advance(len(batch.ids))
        return cls(pixels[0], streamed.sizes, streamed.volumes, *pixels[1:])

    def batches(self, order: Iterable[Tensor]) -> Iterator[SliceBatch]:
        """A batch for each tensor of ids (B,) on the CPU."""
        for ids in order:
            there = to_device(ids, self.pixels.device)
            pixels, volumes = (values.index_select(0, there) for values in (self.pixels, self.volumes))
            following = self.following.index_select(0, there) if self.following is not None else None
            yield SliceBatch(pixels, self.sizes[ids], there, volumes, following)


def placed(
    streamed: StreamedSlices, budget: int | None = None, reporter: Reporter | None = None
) -> ResidentSlices | StreamedSlices:
    """The slices on their device when they take at most `budget` bytes of its memory, else as they are.

    budget  None: half of what is free there now; the rest is the network's. 0: always streamed
    """
    reporter = reporter or Reporter(quiet=True)
    needed = streamed.shape.numel()
    limit = free_memory(streamed.device) // 2 if budget is None else budget
    what = f"{len(streamed)} slices ({needed / 2**30:.2f} GiB)"
    if needed <= limit:
        reporter.note(f"{what} go to {streamed.device}")
        return ResidentSlices.of(streamed, reporter)
    room = f"{streamed.device} has {limit / 2**30:.2f} GiB for them"
    reporter.note(f"{what} stream from the store: {room}")
    return streamed


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or available to programs on the CPU (where Linux does not tell: all)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
