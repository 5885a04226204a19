"""The similarity matrix of volumes in a store: read in pieces, mapped to 8 bits, compared on the CPU or the GPU.

While one unit is compared, threads read the next: into pinned memory, and on to the GPU on a stream of its own, where
the pieces are mapped. So a volume crosses the bus once, as it lies in the store.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.reduction.pieces import Piece, UnreadableVolumeError, by_shape, pieces, reading
from lim_gpu.reduction.prefetch import ReadAhead

if TYPE_CHECKING:
    import torch

    from lim_gpu.store.volume import Volume
from lim_gpu.reduction.criterion import Criterion

BLOCK_BYTES = 64 << 20  # pixels read at a time, so that HASH and DeepNet hold a block and never a volume
CACHED_BYTES = 4 << 20  # the same where a thread reads, maps and hashes: what stays in its cache meanwhile
READ_AHEAD = 256 << 20  # 8-bit pixels that wait to be compared
READERS = min(4, os.cpu_count() or 1)  # threads: what one reads, another maps or sends to the GPU


class StoredMatrix:
    """Computes the matrix of one unit of a store after another, on one device, loading a network only once."""

    def __init__(self, criterion: Criterion, device: torch.device) -> None:
        self.criterion = criterion
        self.device = device
        self._model: Any = None
        self._copies: Any = None  # the stream on which pieces reach the GPU
        self._ahead: ReadAhead[Piece, tuple[torch.Tensor, Any]] | None = None
        self._kept = threading.local()  # arrays of the threads that hash while they read
        self._coming: deque[Volume] = deque()  # whose features are asked for next
        self._features: dict[str, torch.Tensor | UnreadableVolumeError] = {}  # of the last batch of small volumes

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within this context, what `expect` tells is read before it is asked for."""
        with ReadAhead(self._load, lambda piece: piece.pixels, READ_AHEAD, self._readers()) as self._ahead:
            try:
                yield
            finally:
                self._ahead = None
                self._coming.clear()

    def expect(self, volumes: Sequence[Volume]) -> None:
        """Say that a unit of `volumes` comes after those that were told before."""
        if self._ahead is None:
            return
        groups = [list(volumes)] if self.criterion.method in ("hash", "deepnet") else by_shape(volumes)
        self._ahead.expect(piece for group in groups for volume in group for piece in self._pieces(volume))
        self._coming.extend(volumes)

    def compute(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """The matrix (n, n) of all slices of `volumes`, in order: float32, on the engine's device.

        Pairs of unequal shape are -inf for SSIM and MI. Raises UnreadableVolumeError for a volume that cannot be read,
        or is too small for SSIM.
        """
        if self.criterion.method == "hash":
            return self._from_hashes(volumes)
        return self._from_embeddings(volumes) if self.criterion.method == "deepnet" else self._from_pixels(volumes)

    def refined(
        self, matrix: torch.Tensor, volumes: Sequence[Volume], threshold: float | None
    ) -> tuple[torch.Tensor, int]:
        """The matrix with the pairs within 1e-4 of `threshold` recomputed in float64 on the CPU, and their number.

        So both sides of a threshold (a similarity) hold the same pairs on every device. Raises as `compute`.
        """
        from lim_gpu.similarity import refine

        if threshold is None or self.criterion.method == "hash":
            return matrix, 0
        places = [(volume, i) for volume in volumes for i in range(volume.entry.shape[0])]
        how: dict[str, Any] = {"bins": self.criterion.bins, "features": self.criterion.features}
        if self.criterion.method == "deepnet":
            how["model"] = self._network()
        return refine(
            matrix, lambda i: self.images(places[i][0], [places[i][1]])[0], self.criterion.method, threshold, **how
        )

    def hashes(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """The difference hashes (n,) of all slices of `volumes`, in order: int64 with the bits of uint64."""
        import torch

        return torch.cat([self._features_of(volume) for volume in volumes])

    def images(self, volume: Volume, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Slices (k, H, W) as the method sees them, 0..255."""
        with reading(volume):
            return self.criterion.intensity.to_uint8(np.stack([volume.read_slice(int(i)) for i in indices]))

    def _from_hashes(self, volumes: Sequence[Volume]) -> torch.Tensor:
        import torch

        hashes = self.hashes(volumes)
        if self.device.type == "cuda":
            from lim_gpu.similarity.cuda.hash import matrix_of_hashes as matrix_on_gpu

            return matrix_on_gpu(hashes)
        from lim_gpu.similarity.hash import matrix_of_hashes

        return torch.from_numpy(matrix_of_hashes(hashes.numpy().view(np.uint64)))

    def _from_embeddings(self, volumes: Sequence[Volume]) -> torch.Tensor:
        import torch

        from lim_gpu.similarity import deepnet

        return deepnet.cosine_matrix(torch.cat([self._features_of(volume) for volume in volumes]))

    def _from_pixels(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """SSIM and MI: slices of one shape are compared with each other."""
        import torch

        from lim_gpu.similarity import similarity_matrix

        if self.criterion.method == "ssim":
            for volume in volumes:
                _check_sides(volume)
        starts = np.cumsum([0, *(volume.entry.shape[0] for volume in volumes)])
        where = dict(zip(volumes, starts[:-1].tolist(), strict=True))
        matrix = None
        for group in by_shape(volumes):
            slices = self._pixels(group)
            with_bins: dict[str, Any] = {"bins": self.criterion.bins} if self.criterion.method == "mi" else {}
            values = similarity_matrix(slices, self.criterion.method, device=str(self.device), **with_bins)
            if len(group) == len(volumes):
                return values
            if matrix is None:
                matrix = torch.full((int(starts[-1]),) * 2, -torch.inf, device=values.device)
            places = torch.cat([torch.arange(volume.entry.shape[0]) + where[volume] for volume in group])
            places = places.to(values.device)
            matrix[places[:, None], places] = values
        assert matrix is not None
        return matrix

    def _pixels(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """All slices (n, H, W) of volumes of one shape as uint8, on the device where they fit there."""
        import torch

        _, height, width = volumes[0].entry.shape
        total = sum(volume.entry.shape[0] for volume in volumes)
        place = self.device
        if place.type == "cuda" and total * height * width > torch.cuda.mem_get_info(place)[0] // 2:
            place = torch.device("cpu")  # the kernels' launchers copy what they need, block by block
        slices = torch.empty((total, height, width), dtype=torch.uint8, device=place)
        start = 0
        for volume in volumes:
            for block in self._blocks(volume):
                slices[start : start + len(block)] = block
                start += len(block)
        return slices

    def _features_of(self, volume: Volume) -> torch.Tensor:
        """Hashes (n,), or embeddings (n, d), of a volume; those of the small volumes after it are computed with it."""
        if volume.key not in self._features:
            self._features = self._features_of_batch(self._batch_from(volume))
        features = self._features[volume.key]
        if isinstance(features, UnreadableVolumeError):
            raise features
        return features

    def _batch_from(self, volume: Volume) -> list[Volume]:
        """The volume and those that follow it, as many as fit together into a block."""
        batch = [volume]
        if volume not in self._coming:  # a unit that begins again without a volume that cannot be read
            return batch
        while self._coming.popleft() is not volume:
            pass
        if self.criterion.method == "hash" and self.device.type == "cpu":  # Pillow takes a slice at a time
            return batch
        room = BLOCK_BYTES // 2 - np.prod(volume.entry.shape)
        while self._coming and (room := room - np.prod(self._coming[0].entry.shape)) >= 0:
            batch.append(self._coming.popleft())
        return batch

    def _features_of_batch(self, volumes: Sequence[Volume]) -> dict[str, torch.Tensor | UnreadableVolumeError]:
        """The features of each volume by its key, or why it cannot be read. A single volume is never held whole."""

        if self._hashes_while_reading:
            return {volume.key: _joined([self._taken(p)[0] for p in self._pieces(volume)]) for volume in volumes}
        if len(volumes) == 1:
            return {volumes[0].key: _joined([self._features_of_block(block) for block in self._blocks(volumes[0])])}
        found: dict[str, torch.Tensor | UnreadableVolumeError] = {}
        for group in by_shape(volumes):
            slices = {}
            for volume in group:
                try:
                    slices[volume.key] = _joined(list(self._blocks(volume)))
                except UnreadableVolumeError as error:
                    found[volume.key] = error
            if slices:
                features = self._features_of_block(_joined(list(slices.values())))
                found |= zip(slices, features.split([len(own) for own in slices.values()]), strict=True)
        return found

    def _features_of_block(self, block: torch.Tensor) -> torch.Tensor:
        """Embeddings, or on a GPU hashes, of slices (m, H, W) on the device."""
        if self.criterion.method == "deepnet":
            from lim_gpu.similarity.deepnet import embed

            return embed(block, self._network(), self.criterion.features, precision=self.criterion.precision)
        from lim_gpu.similarity.cuda.hash import dhash

        return dhash(block)

    def _blocks(self, volume: Volume) -> Iterator[torch.Tensor]:
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
                yield from self._in_halves(block)

    def _taken(self, piece: Piece) -> tuple[torch.Tensor, Any]:
        return self._ahead.take(piece) if self._ahead else self._load(piece)

    def _pieces(self, volume: Volume) -> list[Piece]:
        return pieces(volume, CACHED_BYTES if self._hashes_while_reading else BLOCK_BYTES)

    @property
    def _hashes_while_reading(self) -> bool:
        """On the CPU a hash is made where its slice is read: pixels never leave the cache of that core."""
        return self.criterion.method == "hash" and self.device.type == "cpu"

    def _readers(self) -> int:
        """Threads that read ahead."""
        from lim_gpu.similarity.blocks import thread_count

        return thread_count() if self._hashes_while_reading else READERS

    def _load(self, piece: Piece) -> tuple[torch.Tensor, Any]:
        """The piece as uint8 on the device, and what to wait for; as it was read where the GPU has no room for it.

        Its hashes where those are made while reading.
        """
        import torch

        volume, start, stop = piece
        if self.device.type != "cuda":
            if self._hashes_while_reading:
                return torch.from_numpy(self._hashed(piece)), None
            with reading(volume):
                return torch.from_numpy(self.criterion.intensity.to_uint8(volume.read(start, stop))), None
        shape = (stop - start, *volume.entry.shape[1:])
        stream = self._copies = self._copies or torch.cuda.Stream(self.device)  # two threads may come here at once
        with torch.cuda.stream(stream):  # and on its GPU, where pinned memory else wakes the first
            host = torch.empty(shape, dtype=getattr(torch, volume.entry.dtype), pin_memory=True)  # from torch's pool
            with reading(volume):
                volume.read(start, stop, out=host.numpy())
            try:
                return self._on_device(host), stream.record_event()
            except torch.OutOfMemoryError:
                return host, None

    def _hashed(self, piece: Piece) -> NDArray[np.int64]:
        """In arrays that the thread keeps: new memory from the system would take longer than what is done with it."""
        from lim_gpu.intensity import compiled
        from lim_gpu.similarity.hash import dhash

        volume, start, stop = piece
        shape = (stop - start, *volume.entry.shape[1:])
        pixels = self._kept_array(shape, volume.entry.dtype)
        with reading(volume):
            volume.read(start, stop, out=pixels)
        if pixels.dtype != np.uint8:
            limits = self.criterion.intensity.limits
            pixels = compiled.to_uint8(pixels, limits, self._kept_array(shape, "uint8"))
        return dhash(pixels, threads=1).view(np.int64)

    def _kept_array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        kept = self._kept.__dict__.setdefault(dtype, np.empty(0, dtype))
        size = math.prod(shape)
        if kept.size < size:
            kept = self._kept.__dict__[dtype] = np.empty(size, dtype)
        return kept[:size].reshape(shape)

    def _on_device(self, host: torch.Tensor) -> torch.Tensor:
        return self.criterion.intensity.to_uint8(host.to(self.device, non_blocking=True))

    def _in_halves(self, host: torch.Tensor) -> Iterator[torch.Tensor]:
        """What did not fit at once, as uint8 on the GPU, in halves of halves where need be."""
        import torch

        torch.cuda.empty_cache()
        try:
            yield self._on_device(host)
            return
        except torch.OutOfMemoryError:
            if len(host) == 1:
                raise LimGpuError(
                    f"{self.device}: out of memory for one slice. Free memory, or use --device cpu"
                ) from None
        for half in host.tensor_split(2):
            yield from self._in_halves(half)

    def _network(self) -> Any:
        if self._model is None:
            from lim_gpu.similarity.deepnet import load_model

            self._model = load_model(self.criterion.weights, self.device)
        return self._model


def _check_sides(volume: Volume) -> None:
    """Raise UnreadableVolumeError for a volume that SSIM cannot compare, so that the others go on."""
    from lim_gpu.similarity.ssim import check_sides

    try:
        check_sides(*volume.entry.shape[1:])
    except InputError as error:
        text = f"{volume.path}: {error}. Another --method compares it"
        raise UnreadableVolumeError(volume.key, text) from error


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One after another; a single one as it is."""
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
