"""A threshold for a data set instead of a constant, which the paper leaves open (Wolf et al. 2024, section 3.3).

The rule is the paper's own hypothesis (section 1): contrastive pre-training suffers where two slices are more alike
than two augmented views of one slice. So slices go while they are at least as alike as two views usually are: the
threshold is the median similarity of pairs of views, over a sample of slices.

Views are made as SwAV's large crops (crop of 90 to 100 % of the area, brightness, contrast, blur), at the slice's own
size, since SSIM and MI change with the resolution. Limits: the threshold follows the augmentation, so another training
has another one; it is one number for volumes that may differ; and that it helps downstream is not shown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.progress import Reporter
from lim_gpu.pruning.rules import to_numpy
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.request import HASH_BITS, Request
from lim_gpu.reduction.views import SWAV, Views
from lim_gpu.spread import spread_evenly
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume

VOLUMES, SLICES = 16, 12  # of the sample: spread evenly over the store, and over each volume
ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class AutoThreshold:
    """The threshold in the method's own unit, and the samples that it rests on, in the same unit.

    views         of two views of one slice
    neighbours    of a slice and the next one of its volume
    augmentation  that made the views
    """

    threshold: float
    views: list[float]
    neighbours: list[float]
    augmentation: str

    def record(self) -> dict[str, Any]:
        """What a selection remembers."""
        return {
            "rule": "median similarity of two augmented views of one slice",
            "augmentation": self.augmentation,
            "threshold": self.threshold,
            "views": self.views,
            "neighbours": self.neighbours,
        }

    def line(self, method: str) -> str:
        """For a person."""
        near = np.array(self.neighbours)
        more = np.mean(near <= self.threshold if method == "hash" else near >= self.threshold)
        return (
            f"--threshold auto: {self.threshold:g}, the median of {len(self.views)} pairs of views of one slice; "
            f"{100 * more:.0f} % of the neighbours sampled are at least as alike"
        )


def with_threshold(
    store: SliceStore, request: Request, device: str, reporter: Reporter
) -> tuple[Request, dict[str, Any]]:
    """The request with a threshold from the data, and how it was found."""
    start = time.perf_counter()
    found = auto_threshold(store, request.criterion, SWAV, request.seed, device, reporter)
    reporter.note(found.line(request.method))
    seconds = round(time.perf_counter() - start, 3)
    return replace(request, threshold=found.threshold), found.record() | {"seconds": seconds}


def auto_threshold(
    store: SliceStore, criterion: Criterion, views: Views, seed: int, device: str, reporter: Reporter
) -> AutoThreshold:
    """The threshold for `criterion`, of a method that compares, on `store`; the same for one seed."""
    from lim_gpu.similarity import resolve_device
    from lim_gpu.similarity.ssim import WINDOW

    engine = StoredMatrix(criterion, resolve_device(device))
    least = WINDOW if criterion.method == "ssim" else 1
    usable = [i for i, entry in enumerate(store.volumes) if min(entry.shape[1:]) >= least]
    if not usable:
        what = f"no volume has slices of {WINDOW} x {WINDOW} pixels, which SSIM needs"
        raise InputError(f"{store.path}: {what}. Give --method hash")
    places = [usable[i] for i in spread_evenly(len(usable), VOLUMES)]
    alike: list[float] = []  # two views of one slice
    neighbours: list[float] = []
    with reporter.track("threshold", len(places), "volumes") as advance:
        for place in places:
            with store[int(place)] as volume:
                own, near = _sample(volume, engine, views, [seed, int(place)])
            alike += own
            neighbours += near
            advance(1)
    hashes = criterion.method == "hash"
    in_own_unit = [[HASH_BITS * (1 - value) if hashes else value for value in values] for values in (alike, neighbours)]
    median = float(np.median(in_own_unit[0]))
    threshold = float(np.floor(median)) if hashes else round(median, 4)
    of_views, of_neighbours = ([round(value, 5) for value in values] for values in in_own_unit)
    return AutoThreshold(threshold, of_views, of_neighbours, views.name)


def _sample(volume: Volume, engine: StoredMatrix, views: Views, seed: list[int]) -> tuple[list[float], list[float]]:
    """Similarities of two views of each of some slices, and of each of them and the next."""
    n = volume.entry.shape[0]
    chosen = spread_evenly(max(1, n - 1), SLICES)
    images = engine.images(volume, chosen.tolist())
    first, second = two_views(images, views, int(np.random.default_rng(seed).integers(2**31)))
    following = engine.images(volume, np.minimum(chosen + 1, n - 1).tolist()) if n > 1 else images[:0]
    return _similarities(engine, first, second), _similarities(engine, images[: len(following)], following)


def _similarities(engine: StoredMatrix, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> list[float]:
    """Of slice i of x and slice i of y, each (k, H, W)."""
    if not len(x):
        return []
    from lim_gpu.similarity import similarity_matrix

    how = engine.criterion
    options: dict[str, Any] = {"bins": how.bins, "features": how.features, "weights": how.weights}
    matrix = to_numpy(similarity_matrix(np.concatenate([x, y]), how.method, device=str(engine.device), **options))
    return [float(matrix[i, len(x) + i]) for i in range(len(x))]


def two_views(images: NDArray[np.uint8], views: Views, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two augmented views of each slice (k, H, W), uint8 (k, S, S) with S the smaller side."""
    import torch

    from lim_gpu import augment

    generator = torch.Generator().manual_seed(seed)
    count, height, width = images.shape
    sizes = torch.tensor([[height, width]]).repeat(count, 1)
    crops = augment.random_resized_crop(
        torch.from_numpy(images), sizes, min(height, width), views.scale, ASPECT, generator, crops=2
    )
    crops = augment.color_jitter(crops, views.brightness, views.contrast, views.jitter, generator)
    crops = augment.gaussian_blur(crops, views.blur, views.blur_sigma, generator)
    both = (crops[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return both[:count], both[count:]
