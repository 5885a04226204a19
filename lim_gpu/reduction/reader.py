"""Pixels of a store on a device: read in pieces and ahead, mapped to 8 bits, in halves where memory runs out.

While one unit is compared, threads read the next: into pinned memory, and on to the GPU on a stream of its own, where
the pieces are mapped and their checksums summed in the same pass. So a volume crosses the bus once, as it lies in the
store, and the CPU sums nothing, unless it is compressed, the GPU has no room for it, or the body in it is looked for.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import LimGpuError
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.pieces import Piece, by_shape, pieces, reading
from lim_gpu.reduction.prefetch import ReadAhead

if TYPE_CHECKING:
    import torch

    from lim_gpu.intensity.mapping import VolumeMapping
    from lim_gpu.store.file import Compare
    from lim_gpu.store.volume import Volume

BLOCK_BYTES = 64 << 20  # pixels read at a time, so that HASH and DeepNet hold a block and never a volume
CACHED_BYTES = 4 << 20  # the same where a thread reads, maps and hashes: what stays in its cache meanwhile
READ_AHEAD = 256 << 20  # 8-bit pixels that wait to be compared
READERS = min(4, os.cpu_count() or 1)  # threads: what one reads, another maps or sends to the GPU


class Reader:
    """Reads volumes for one method on one device: their blocks, or their hashes where those are made while reading.

    hashes_while_reading  on the CPU a hash is made where its slice is read: pixels never leave the cache of that core
    """

    def __init__(self, criterion: Criterion, device: torch.device) -> None:
        self.criterion = criterion
        self.device = device
        self.hashes_while_reading = criterion.method == "hash" and device.type == "cpu"
        self._copies: Any = None  # the stream on which pieces reach the GPU
        self._ahead: ReadAhead[Piece, tuple[torch.Tensor, Any]] | None = None
        self._kept = threading.local()  # arrays of the threads that hash while they read

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within this context, what `expect` tells is read before it is asked for."""
        with ReadAhead(self._load, lambda piece: piece.pixels, READ_AHEAD, self._threads()) as self._ahead:
            try:
                yield
            finally:
                self._ahead = None

    def expect(self, volumes: Sequence[Volume]) -> bool:
        """Say that a unit of `volumes` comes after those that were told before; whether it is read ahead."""
        if self._ahead is None:
            return False
        groups = [list(volumes)] if self.criterion.method in ("hash", "deepnet") else by_shape(volumes)
        self._ahead.expect(piece for group in groups for volume in group for piece in self._pieces(volume))
        return True

    def blocks(self, volume: Volume) -> Iterator[torch.Tensor]:
        """Blocks (m, H, W) of a volume as uint8 on the device."""
        import torch

        for piece in self._pieces(volume):
            block, copied = self._taken(piece)
            if copied is not None:
                stream = torch.cuda.current_stream(self.device)
                stream.wait_event(copied)
                block.record_stream(stream)  # its memory is not given away before this stream is done with it
            if block.dtype == torch.uint8 and block.device == self.device:
                yield block
            else:
                yield from self._in_halves(block, self._mapping(volume))

    def hashes(self, volume: Volume) -> list[torch.Tensor]:
        """The difference hashes of a volume, a tensor (m,) a piece, where they are made while reading."""
        return [self._taken(piece)[0] for piece in self._pieces(volume)]

    def _taken(self, piece: Piece) -> tuple[torch.Tensor, Any]:
        return self._ahead.take(piece) if self._ahead else self._load(piece)

    def _pieces(self, volume: Volume) -> list[Piece]:
        return pieces(volume, CACHED_BYTES if self.hashes_while_reading else BLOCK_BYTES)

    def _threads(self) -> int:
        """How many read ahead."""
        from lim_gpu.similarity.blocks import thread_count

        return thread_count() if self.hashes_while_reading else READERS

    def _load(self, piece: Piece) -> tuple[torch.Tensor, Any]:
        """The piece as uint8 on the device, and what to wait for; as it was read where the GPU has no room for it.

        Its hashes where those are made while reading.
        """
        import torch

        if self.device.type != "cuda":
            if self.hashes_while_reading:
                return torch.from_numpy(self._hashed(piece)), None
            volume, start, stop = piece
            with reading(volume):
                return torch.from_numpy(self._mapping(volume).to_uint8(volume.read(start, stop))), None
        stream = self._copies = self._copies or torch.cuda.Stream(self.device)  # two threads may come here at once
        with torch.cuda.stream(stream):  # and on its GPU, where pinned memory else wakes the first
            block = self._sent(piece)
            return block, stream.record_event() if block.device == self.device else None

    def _sent(self, piece: Piece) -> torch.Tensor:
        """The piece as uint8 on the device; as it was read, and summed here, where there is no room for it."""
        import torch

        volume, start, stop = piece
        shape = (stop - start, *volume.entry.shape[1:])
        pinned = self.device.type == "cuda"  # from torch's pool
        host = torch.empty(shape, dtype=getattr(torch, volume.entry.dtype), pin_memory=pinned)
        with reading(volume):
            how = self._mapping(volume)
            compare = self._read(volume, start, stop, host, how)
            try:
                return self._on_device(host, how, compare)
            except torch.OutOfMemoryError:
                _sum_here(host, compare)
                return host

    def _read(self, volume: Volume, start: int, stop: int, host: torch.Tensor, how: VolumeMapping) -> Compare | None:
        """Into `host`, not summed yet; but summed, and cleared outside the body, where that alone counts."""
        if not how.body:
            return volume.read_unsummed(start, host.numpy())
        volume.read(start, stop, out=host.numpy())
        how.clear(host.numpy())
        return None

    def _hashed(self, piece: Piece) -> NDArray[np.int64]:
        """In arrays that the thread keeps: new memory from the system would take longer than what is done with it."""
        from lim_gpu.intensity import compiled
        from lim_gpu.similarity.hash import dhash

        volume, start, stop = piece
        shape = (stop - start, *volume.entry.shape[1:])
        pixels = self._kept_array(shape, volume.entry.dtype)
        with reading(volume):
            volume.read(start, stop, out=pixels)
            how = self._mapping(volume)
        if pixels.dtype != np.uint8:
            how.clear(pixels)
            pixels = compiled.to_uint8(pixels, how.limits, self._kept_array(shape, "uint8"))
        return dhash(pixels, threads=1).view(np.int64)

    def _kept_array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        kept = self._kept.__dict__.setdefault(dtype, np.empty(0, dtype))
        size = math.prod(shape)
        if kept.size < size:
            kept = self._kept.__dict__[dtype] = np.empty(size, dtype)
        return kept[:size].reshape(shape)

    def _mapping(self, volume: Volume) -> VolumeMapping:
        return self.criterion.intensity.of_volume(volume)

    def _on_device(self, host: torch.Tensor, how: VolumeMapping, compare: Compare | None = None) -> torch.Tensor:
        """What was cleared when it was read, as uint8 on the device; `compare` is given the sums that this makes."""
        slices = host.to(self.device, non_blocking=True)
        if compare is None:
            return how.scale(slices)
        from lim_gpu.intensity.cuda import to_uint8_summed

        mapped, sums = to_uint8_summed(slices, how.limits)
        compare(sums.cpu().numpy().view(np.uint32))
        return mapped

    def _in_halves(self, host: torch.Tensor, how: VolumeMapping) -> Iterator[torch.Tensor]:
        """What did not fit at once, as uint8 on the GPU, in halves of halves where need be."""
        import torch

        torch.cuda.empty_cache()
        try:
            yield self._on_device(host, how)
            return
        except torch.OutOfMemoryError:
            if len(host) == 1:
                raise LimGpuError(
                    f"{self.device}: out of memory for one slice. Free memory, or use --device cpu"
                ) from None
        for half in host.tensor_split(2):
            yield from self._in_halves(half, how)


def _sum_here(host: torch.Tensor, compare: Compare | None) -> None:
    from lim_gpu.store.fletcher import of_slices

    if compare is not None:
        compare(of_slices(host.numpy()))
