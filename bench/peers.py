"""Who else computes what lim_gpu does, on the same slices. To add a peer: its function, and its line in a table below.

A peer that is not installed is skipped by name. All get uint8 slices (n, H, W) on the device, as a volume in memory is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d, cosine_similarity, interpolate, normalize

from lim_gpu.similarity.deepnet import MEAN, SIDE, STD
from lim_gpu.similarity.ssim import K1, K2, WINDOW, gaussian

L = 255.0
BINS = 100
BATCH = {"cpu": 2, "cuda": 32}  # pairs at a time; five float maps of 512 x 512 a pair
BITS = 64

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Peer:
    """Somebody's implementation of a method.

    needs      the module that must be importable
    compute    what it does; its arguments are the table's
    devices    where it runs
    tolerance  that it keeps against the reference: what is faster because it is wrong is no peer
    """

    name: str
    needs: str
    compute: Callable[..., Any]
    devices: str = "cpu cuda"
    tolerance: float = 1e-3


DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def params(table: tuple[Peer, ...], *before: str) -> list[Any]:
    """Parameters (*before, peer, device) of a test, for each peer where it runs."""
    return [
        pytest.param(
            *before, peer, device, id="-".join([*before, peer.name, device]),
            marks=[
                pytest.mark.skipif(find_spec(peer.needs) is None, reason=f"{peer.name} is not installed"),
                *([pytest.mark.gpu] if device == "cuda" else []),
            ],
        )
        for peer in table
        for device in peer.devices.split()
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- pairs of slices


def one_by_one(similarity: Callable[[Any, Any], Any], convert: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    """compute(slices, pairs) -> values, of a library that takes one pair at a time."""

    def compute(slices: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        images = convert(slices)
        values = [float(similarity(images[i], images[j])) for i, j in pairs]
        return torch.tensor(values, dtype=torch.float64)

    return compute


def in_batches(similarity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """compute(slices, pairs) -> values, of a library that takes batches (k, 1, H, W) of float32 in 0..255."""

    def compute(slices: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        with torch.no_grad():
            batches = torch.tensor(pairs, device=slices.device).split(BATCH[slices.device.type])
            return torch.cat([similarity(*(slices[ends, None].float() for ends in batch.T)) for batch in batches])

    return compute


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


def cupy(tensor: torch.Tensor) -> Any:
    import cupy as module

    return module.from_dlpack(tensor)


SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": L}


def scikit_image_ssim(x: np.ndarray, y: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    return structural_similarity(x, y, **SKIMAGE)


def cucim_ssim(x: Any, y: Any) -> Any:
    from cucim.skimage.metrics import structural_similarity

    return structural_similarity(x, y, **SKIMAGE)


def pytorch_msssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from pytorch_msssim import ssim

    return ssim(x, y, data_range=L, size_average=False)


def torchmetrics_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, maps = structural_similarity_index_measure(x, y, data_range=L, reduction="none", return_full_image=True)
    return maps[..., 5:-5, 5:-5].mean((1, 2, 3))  # its own mean is over windows that hang over the border too


def kornia_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from kornia.metrics import ssim

    return ssim(x, y, WINDOW, max_val=L, padding="valid").mean((1, 2, 3))


def fused_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from fused_ssim import FusedSSIMMap  # fused_ssim() itself gives the mean of a batch only

    return FusedSSIMMap.apply(K1**2, K2**2, x / L, y / L, "valid", False).mean((1, 2, 3))


@cache
def _window(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(gaussian()).float().to(device)


def torch_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As one would write it: the five maps filtered along columns, then along rows."""
    w = _window(x.device)
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1).flatten(0, 1)[:, None]
    maps = conv2d(conv2d(maps, w.view(1, 1, -1, 1)), w.view(1, 1, 1, -1))
    mx, my, xx, yy, xy = maps.unflatten(0, (-1, 5)).unbind(1)
    c1, c2 = (K1 * L) ** 2, (K2 * L) ** 2
    above = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    below = (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
    return (above / below).mean((1, 2, 3))


SSIM = (
    Peer("scikit-image", "skimage", one_by_one(scikit_image_ssim, numpy), "cpu", 1e-9),
    Peer("pytorch-msssim", "pytorch_msssim", in_batches(pytorch_msssim)),
    Peer("torchmetrics", "torchmetrics", in_batches(torchmetrics_ssim)),
    Peer("kornia", "kornia", in_batches(kornia_ssim)),
    Peer("torch, batched", "torch", in_batches(torch_ssim)),
    Peer("fused-ssim", "fused_ssim", in_batches(fused_ssim), "cuda"),
    Peer("cucim", "cucim", one_by_one(cucim_ssim, cupy), "cuda"),
)


def scikit_image_mi(x: np.ndarray, y: np.ndarray) -> float:
    from skimage.metrics import normalized_mutual_information

    return normalized_mutual_information(x, y, bins=BINS)


def cucim_mi(x: Any, y: Any) -> Any:
    from cucim.skimage.metrics import normalized_mutual_information

    return normalized_mutual_information(x, y, bins=BINS)


def _numbers(x: torch.Tensor) -> torch.Tensor:
    """Bin numbers (k, pixels) of x (k, 1, H, W), between each image's minimum and maximum."""
    x = x.flatten(1)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return ((x - low) / (high - low) * BINS).long().clamp_(max=BINS - 1)


def torchmetrics_mi(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of its 2 I / (H(X) + H(Y)) = a, Studholme's (H(X) + H(Y)) / H(X, Y) is 2 / (2 - a)."""
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    both = zip(_numbers(x), _numbers(y), strict=True)
    return torch.stack([2 / (2 - normalized_mutual_info_score(a, b)) for a, b in both])


def _entropy(counts: torch.Tensor) -> torch.Tensor:
    p = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(p).sum(1)


def torch_mi(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As one would write it: joint histograms of a batch by one bincount."""
    k = torch.arange(len(x), device=x.device)[:, None]
    joint = torch.bincount((((k * BINS) + _numbers(x)) * BINS + _numbers(y)).flatten(), minlength=len(x) * BINS**2)
    joint = joint.view(-1, BINS, BINS).double()
    return (_entropy(joint.sum(1)) + _entropy(joint.sum(2))) / _entropy(joint.flatten(1))


MI = (
    Peer("scikit-image", "skimage", one_by_one(scikit_image_mi, numpy), "cpu", 1e-9),
    Peer("torchmetrics", "torchmetrics", in_batches(torchmetrics_mi)),
    Peer("torch, batched", "torch", in_batches(torch_mi)),
    Peer("cucim", "cucim", one_by_one(cucim_mi, cupy), "cuda"),
)

# ---------------------------------------------------------------------------------------------- hashes of slices
# compute(slices) -> int64 (n,). The tolerance counts bits that differ from imagehash's, of 64, on average.


def _signed(hashes: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.array(hashes, dtype=np.uint64).view(np.int64))


def imagehash_hashes(slices: torch.Tensor) -> torch.Tensor:
    from PIL import Image

    imagehash = pytest.importorskip("imagehash")
    return _signed([int(str(imagehash.dhash(Image.fromarray(pixels))), 16) for pixels in slices.numpy()])


def imagededup_hashes(slices: torch.Tensor) -> torch.Tensor:
    from imagededup.methods import DHash

    encoder = DHash(verbose=False)
    return _signed([int(encoder.encode_image(image_array=pixels), 16) for pixels in slices.numpy()])


def torch_hashes(slices: torch.Tensor) -> torch.Tensor:
    """As one would write it; torch has no Lanczos filter, so the bits are not quite imagehash's."""
    small = interpolate(slices[:, None].float(), (8, 9), mode="bicubic", antialias=True)[:, 0]
    bits = (small[:, :, 1:] > small[:, :, :-1]).flatten(1).long()
    return (bits << torch.arange(BITS - 1, -1, -1, device=slices.device)).sum(1)


HASHES = (
    Peer("imagehash", "imagehash", imagehash_hashes, "cpu", 0),
    Peer("imagededup", "imagededup", imagededup_hashes, "cpu", 0),
    Peer("torch, batched (bicubic)", "torch", torch_hashes, tolerance=6),
)

# ---------------------------------------------------------------------------------------------- distances of hashes
# compute(hashes int64 (n,)) -> (n, n) differing bits.


def imagehash_distances(hashes: torch.Tensor) -> torch.Tensor:
    imagehash = pytest.importorskip("imagehash")
    objects = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes.numpy().view(np.uint64).tolist()]
    return torch.tensor([[a - b for b in objects] for a in objects])


def imagededup_distances(hashes: torch.Tensor) -> torch.Tensor:
    from imagededup.methods import DHash

    texts = [f"{value:016x}" for value in hashes.numpy().view(np.uint64).tolist()]
    return torch.tensor([[int(DHash.hamming_distance(a, b)) for b in texts] for a in texts])


def numpy_distances(hashes: torch.Tensor) -> torch.Tensor:
    values = hashes.numpy().view(np.uint64)
    return torch.from_numpy(np.bitwise_count(values[:, None] ^ values[None]))


def torch_distances(hashes: torch.Tensor) -> torch.Tensor:
    """As one would write it: bits as -1 and 1, and a matrix product."""
    bits = (hashes[:, None] >> torch.arange(BITS, device=hashes.device) & 1).float() * 2 - 1
    return (BITS - bits @ bits.T) / 2


FEW = 100  # hashes for those that take a Python call a pair


def faiss_distances(hashes: torch.Tensor) -> torch.Tensor:
    """IndexBinaryFlat's range search with a radius that takes all."""
    distances = torch.empty((len(hashes), len(hashes)), dtype=torch.uint8)
    limits, found, places = faiss_neighbours(hashes, BITS)
    rows = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    distances.numpy()[rows, places] = found
    return distances


def faiss_leader(hashes: torch.Tensor, bits: int) -> NDArray[np.int64]:
    """The authors' walk over the neighbours that FAISS finds: the first that is left stays, its neighbours go."""
    limits, _, places = faiss_neighbours(hashes, bits)
    left, kept = np.ones(len(hashes), dtype=bool), []
    for i in range(len(hashes)):
        if left[i]:
            kept.append(i)
            left[places[limits[i] : limits[i + 1]]] = False
    return np.array(kept)


def faiss_neighbours(hashes: torch.Tensor, bits: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(limits, distances, places) of all hashes at most `bits` from each, itself among them; see range_search."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    data = hashes.numpy().view(np.uint8).reshape(-1, BITS // 8)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(data)
    limits, distances, places = index.range_search(data, bits + 1)  # what is nearer than the radius
    return limits, distances, places


SLOW = (imagehash_distances, imagededup_distances)
DISTANCES = (
    Peer("imagehash", "imagehash", imagehash_distances, "cpu", 0),
    Peer("imagededup", "imagededup", imagededup_distances, "cpu", 0),
    Peer("NumPy", "numpy", numpy_distances, "cpu", 0),
    Peer("FAISS", "faiss", faiss_distances, "cpu", 0),
    Peer("torch, batched", "torch", torch_distances, tolerance=0),
)

# ---------------------------------------------------------------------------------------------- DeepNet
# compute(slices, model) -> cosines (n, n).


def _normalized(grey: torch.Tensor) -> torch.Tensor:
    """float (k, 1, H, W) in 0..1, as torchvision's transforms have it."""
    small = interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values, device=grey.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (small - mean) / std


def torchvision_cosines(slices: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """A slice at a time, by torchvision's own transforms."""
    from torchvision.transforms import v2

    transform = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Resize((SIDE, SIDE), antialias=True), v2.Normalize(MEAN, STD)]
    )
    with torch.no_grad():
        unit = normalize(torch.cat([model(transform(pixels.expand(3, -1, -1))[None]) for pixels in slices]))
    return unit @ unit.T


def torch_cosines(slices: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """As one would write it, in batches."""
    with torch.no_grad():
        outputs = torch.cat([model(_normalized(batch[:, None].float() / L)) for batch in slices.split(64)])
    return cosine_similarity(outputs[:, None], outputs[None], dim=2)


DEEPNET = (
    Peer("torchvision", "torchvision", torchvision_cosines, tolerance=2e-3),
    Peer("torch, batched", "torch", torch_cosines, tolerance=2e-3),
)
