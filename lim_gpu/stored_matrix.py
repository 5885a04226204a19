"""The similarity matrix of volumes in a store: read in blocks, mapped to 8 bits, compared on the CPU or the GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.intensity import Intensity

if TYPE_CHECKING:
    import torch

    from lim_gpu.store import Volume

BLOCK_BYTES = 64 << 20  # pixels read at a time, so that HASH and DeepNet hold a block and never a volume


@dataclass(frozen=True)
class Criterion:
    """A similarity method with all that changes its values.

    method     "ssim", "mi", "deepnet" or "hash"
    intensity  how HU become 0..255
    bins       of MI's histograms, 2..256
    features   of DeepNet: "logits" (1000) or "pooled" (2048)
    weights    of DeepNet: a file, or None for torchvision's IMAGENET1K_V1
    """

    method: str
    intensity: Intensity
    bins: int = 100
    features: str = "logits"
    weights: Path | None = None

    def parameters(self) -> dict[str, Any]:
        """What a fingerprint and a record hold: only what this method uses."""
        values: dict[str, Any] = {"intensity": self.intensity.describe()}
        if self.method == "mi":
            values["bins"] = self.bins
        if self.method == "deepnet":
            values |= {"features": self.features, "weights": self._weights_identity}
        return values

    @cached_property
    def _weights_identity(self) -> str:
        return weights_identity(self.weights)


def weights_identity(weights: Path | None) -> str:
    """The name of torchvision's weights, or "sha256:..." of a file. Raises InputError when it cannot be read."""
    if weights is None:
        return "IMAGENET1K_V1"
    try:
        with open(weights, "rb") as handle:
            return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error.strerror}. Give --weights an existing file") from None


class UnreadableVolumeError(InputError):
    """A volume of a store that cannot be read; `key` tells which."""

    def __init__(self, key: str, cause: object) -> None:
        super().__init__(str(cause))
        self.key = key


@contextmanager
def reading(volume: Volume) -> Iterator[None]:
    """Name the volume in whatever goes wrong while it is read."""
    try:
        yield
    except InputError as error:
        raise UnreadableVolumeError(volume.key, error) from error


class StoredMatrix:
    """Computes the matrix of one unit of a store after another, on one device, loading a network only once."""

    def __init__(self, criterion: Criterion, device: torch.device) -> None:
        self.criterion = criterion
        self.device = device
        self._model: Any = None

    def compute(self, volumes: Sequence[Volume], threshold: float | None = None) -> tuple[NDArray[np.float32], int]:
        """The matrix (n, n) of all slices of `volumes`, in order, and the number of borderline pairs.

        Pairs of unequal shape are -inf for SSIM and MI. With a `threshold` (a similarity), pairs within 1e-4 of it are
        recomputed in float64 on the CPU, so that both sides of it hold the same pairs on every device.
        Raises UnreadableVolumeError for a volume that cannot be read.
        """
        if self.criterion.method in ("hash", "deepnet"):
            return self._from_features(volumes, threshold)
        return self._from_pixels(volumes, threshold)

    def hashes(self, volumes: Sequence[Volume]) -> NDArray[np.uint64]:
        """The difference hashes (n,) of all slices of `volumes`, in order."""
        from lim_gpu.pruning import to_numpy

        blocks = (block for volume in volumes for block in self._blocks(volume))
        if self.device.type == "cuda":
            from lim_gpu.similarity.cuda.hash import dhash as dhash_on_gpu

            return np.concatenate([to_numpy(dhash_on_gpu(block)).view(np.uint64) for block in blocks])
        from lim_gpu.similarity.hash import dhash

        return np.concatenate([dhash(block) for block in blocks])

    def images(self, volume: Volume, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Slices (k, H, W) as the method sees them, 0..255."""
        with reading(volume):
            return self.criterion.intensity.to_uint8(np.stack([volume.read_slice(int(i)) for i in indices]))

    def _from_features(self, volumes: Sequence[Volume], threshold: float | None) -> tuple[NDArray[np.float32], int]:
        """HASH and DeepNet: a feature a slice, from blocks, so that no volume is ever held whole."""
        import torch

        from lim_gpu.similarity import deepnet, hash, refine

        if self.criterion.method == "hash":
            return hash.matrix_of_hashes(self.hashes(volumes)), 0
        blocks = (block for volume in volumes for block in self._blocks(volume))
        model = self._network()
        embeddings = torch.cat([deepnet.embed(block, model, self.criterion.features) for block in blocks])
        matrix = deepnet.cosine_matrix(embeddings).cpu().numpy()
        if threshold is None:
            return matrix, 0
        places = [(volume, i) for volume in volumes for i in range(volume.entry.shape[0])]
        return refine(
            matrix,
            lambda i: self.images(places[i][0], [places[i][1]])[0],
            "deepnet",
            threshold,
            model=model,
            features=self.criterion.features,
        )

    def _from_pixels(self, volumes: Sequence[Volume], threshold: float | None) -> tuple[NDArray[np.float32], int]:
        """SSIM and MI: slices of one shape are compared with each other."""
        from lim_gpu.similarity import refine, similarity_matrix

        counts = [volume.entry.shape[0] for volume in volumes]
        starts = np.cumsum([0, *counts])
        matrix = np.full((starts[-1], starts[-1]), -np.inf, dtype=np.float32)
        borderline = 0
        for shape in dict.fromkeys(volume.entry.shape[1:] for volume in volumes):
            members = [i for i, volume in enumerate(volumes) if volume.entry.shape[1:] == shape]
            places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in members])
            slices = self._pixels([volumes[i] for i in members])
            with_bins: dict[str, Any] = {"bins": self.criterion.bins} if self.criterion.method == "mi" else {}
            values = (
                similarity_matrix(slices, self.criterion.method, device=str(self.device), **with_bins).cpu().numpy()
            )
            if threshold is not None:
                values, near = refine(values, slices, self.criterion.method, threshold, **with_bins)
                borderline += near
            matrix[np.ix_(places, places)] = values
        return matrix, borderline

    def _pixels(self, volumes: Sequence[Volume]) -> Any:
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
                slices[start : start + len(block)] = torch.as_tensor(block)
                start += len(block)
        return slices

    def _blocks(self, volume: Volume) -> Iterator[Any]:
        """Blocks (m, H, W) of a volume as uint8: NumPy for the CPU, tensors on the GPU."""
        n, height, width = volume.entry.shape
        step = max(1, BLOCK_BYTES // (2 * height * width))
        for start in range(0, n, step):
            with reading(volume):
                block = volume.read(start, min(n, start + step))
            if self.device.type == "cuda":
                yield from self._blocks_on_gpu(block)
            else:
                yield self.criterion.intensity.to_uint8(block)

    def _blocks_on_gpu(self, block: NDArray[Any]) -> Iterator[Any]:
        """The block as uint8 on the GPU, in halves where it does not fit."""
        import torch

        from lim_gpu.similarity.cuda.intensity import to_uint8

        try:
            yield to_uint8(torch.from_numpy(block).to(self.device), self.criterion.intensity)
            return
        except torch.OutOfMemoryError:
            if len(block) == 1:
                raise LimGpuError(
                    f"{self.device}: out of memory for one slice. Free memory, or use --device cpu"
                ) from None
        torch.cuda.empty_cache()
        for half in np.array_split(block, 2):
            yield from self._blocks_on_gpu(half)

    def _network(self) -> Any:
        if self._model is None:
            from lim_gpu.similarity.deepnet import load_model

            self._model = load_model(self.criterion.weights, self.device)
        return self._model
