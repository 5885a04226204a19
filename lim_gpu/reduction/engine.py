"""The similarity matrix of volumes in a store, compared on the CPU or the GPU as a `Reader` brings their pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.reduction import reader
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.pieces import UnreadableVolumeError, by_shape, reading
from lim_gpu.reduction.reader import Reader

if TYPE_CHECKING:
    import torch

    from lim_gpu.pruning.hashes import Search
    from lim_gpu.store.volume import Volume


class StoredMatrix:
    """Computes the matrix of one unit of a store after another, on one device, loading a network only once."""

    def __init__(self, criterion: Criterion, device: torch.device) -> None:
        self.criterion = criterion
        self.device = device
        self._reader = Reader(criterion, device)
        self.search: Search | None = None  # what compares hashes, in place of the device
        self._model: Any = None
        self._coming: deque[Volume] = deque()  # whose features are asked for next
        self._features: dict[str, torch.Tensor | UnreadableVolumeError] = {}  # of the last batch of small volumes

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within this context, what `expect` tells is read before it is asked for."""
        with self._reader.reading_ahead():
            try:
                yield
            finally:
                self._coming.clear()

    def expect(self, volumes: Sequence[Volume]) -> None:
        """Say that a unit of `volumes` comes after those that were told before."""
        if self._reader.expect(volumes):
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
            pixels = np.stack([volume.read_slice(int(i)) for i in indices])
            return self.criterion.intensity.of_volume(volume).to_uint8(pixels)

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
            for block in self._reader.blocks(volume):
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
        if self._reader.hashes_while_reading:  # a slice at a time
            return batch
        room = reader.BLOCK_BYTES // 2 - np.prod(volume.entry.shape)
        while self._coming and (room := room - np.prod(self._coming[0].entry.shape)) >= 0:
            batch.append(self._coming.popleft())
        return batch

    def _features_of_batch(self, volumes: Sequence[Volume]) -> dict[str, torch.Tensor | UnreadableVolumeError]:
        """The features of each volume by its key, or why it cannot be read. A single volume is never held whole."""
        if self._reader.hashes_while_reading:
            return {volume.key: _joined(self._reader.hashes(volume)) for volume in volumes}
        if len(volumes) == 1:
            return {
                volumes[0].key: _joined([self._features_of_block(block) for block in self._reader.blocks(volumes[0])])
            }
        found: dict[str, torch.Tensor | UnreadableVolumeError] = {}
        for group in by_shape(volumes):
            slices = {}
            for volume in group:
                try:
                    slices[volume.key] = _joined(list(self._reader.blocks(volume)))
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

    def _network(self) -> Any:
        if self._model is None:
            from lim_gpu.similarity.deepnet import load_model

            self._model = load_model(self.criterion.weights, self.device, self.criterion.features)
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
