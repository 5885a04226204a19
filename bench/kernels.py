"""Every version of every kernel, and what one unit of its work costs at the least.

`work` is counted by hand from the formulas, not from the code: a version that does it in another way, or that need not
do all of it, may come to more than the whole limit. Resources are those of bench/ceilings.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lim_gpu.cuda.module import Module
from lim_gpu.intensity import cuda as cuda_intensity
from lim_gpu.intensity import definition
from lim_gpu.pruning import cuda as cuda_prune
from lim_gpu.pruning.rules import rank
from lim_gpu.similarity.cuda import hash as cuda_hash
from lim_gpu.similarity.cuda import mi as cuda_mi
from lim_gpu.similarity.cuda import ssim as cuda_ssim
from lim_gpu.similarity.hash import dhash, hamming_matrix
from lim_gpu.similarity.mi import mi_matrix
from lim_gpu.similarity.ssim import RADIUS, ssim_matrix
from lim_gpu.store.fletcher import of_slices

SSIM_INSTRUCTIONS = 35  # a pixel: the product, 22 multiply-adds of the two passes, 12 of the formula

Work = dict[str, float]


@dataclass(frozen=True)
class Kernel:
    """One version of a kernel.

    run        (input, module) -> result, on the device of its input
    reference  input on the CPU -> what the result must be, within `tolerance`
    work       the input -> units of work, and what a unit costs at the least by resource
    """

    name: str
    file: str
    unit: str
    run: Callable[[torch.Tensor, Module | None], torch.Tensor]
    reference: Callable[[torch.Tensor], torch.Tensor]
    work: Callable[[torch.Tensor], tuple[int, Work]]
    tolerance: float = 0

    def error(self, data: torch.Tensor, module: Module | None = None) -> float:
        """The largest deviation from the reference. AssertionError where it is more than the tolerance."""
        result, expected = self.run(data, module).cpu().double(), self.reference(data.cpu()).double()
        error = float((result - expected).abs().max())
        assert error <= self.tolerance, f"{self.name} errs by {error:g}"
        return error


def pair_count(n: int) -> int:
    return n * (n - 1) // 2


def _ssim_work(slices: torch.Tensor) -> tuple[int, Work]:
    n, height, width = slices.shape
    windows = (height - 2 * RADIUS) * (width - 2 * RADIUS)
    return pair_count(n), {"fp32 instructions": SSIM_INSTRUCTIONS * windows}


def _mi_work(slices: torch.Tensor) -> tuple[int, Work]:
    return pair_count(len(slices)), {"shared-memory atomics": slices[0].numel()}


def _pixel_work(bytes_per_pixel: float) -> Callable[[torch.Tensor], tuple[int, Work]]:
    return lambda slices: (len(slices), {"bytes": bytes_per_pixel * slices[0].numel()})


def _distance_work(hashes: torch.Tensor) -> tuple[int, Work]:
    return len(hashes) ** 2, {"64-bit popcounts": 1, "bytes": 1}


def _rank_work(matrix: torch.Tensor) -> tuple[int, Work]:
    """The upper triangle is read once. What costs is latency: see prune.cu."""
    return len(matrix) - 1, {"bytes": 4 * len(matrix) / 2}


def _numpy(function: Callable[..., Any], *arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda data: torch.from_numpy(np.asarray(function(data.numpy(), *arguments)))


def _order(ranking: tuple[Any, ...]) -> torch.Tensor:
    return torch.from_numpy(ranking[0].copy())


def _ssim(version: str) -> Callable[[torch.Tensor, Module | None], torch.Tensor]:
    return lambda slices, module: cuda_ssim.ssim_matrix(slices, 255, version=version, module=module)


def _mi(version: str) -> Callable[[torch.Tensor, Module | None], torch.Tensor]:
    return lambda slices, module: cuda_mi.mi_matrix(slices, version=version, module=module)


SSIM_KERNELS = {"pairs": "ssim_pairs", **{version: tensor.kernel for version, tensor in cuda_ssim.TENSOR.items()}}
SSIM = [
    Kernel("ssim_plain", "ssim", "pair", lambda x, m: cuda_ssim.ssim_matrix_plain(x, 255, module=m),
           _numpy(ssim_matrix, 255), _ssim_work, 1e-5),
    *(Kernel(name, "ssim", "pair", _ssim(version), _numpy(ssim_matrix, 255), _ssim_work, 1e-5)
      for version, name in SSIM_KERNELS.items()),
]  # fmt: skip
MI = [
    Kernel("mi_pairs_plain", "mi", "pair", lambda x, m: cuda_mi.mi_matrix_plain(x, module=m),
           _numpy(mi_matrix, 100), _mi_work, 1e-6),
    *(Kernel(name, "mi", "pair", _mi(version), _numpy(mi_matrix, 100), _mi_work, 1e-6)
      for version, name in cuda_mi.KERNELS.items()),
]  # fmt: skip
HASH = [
    Kernel("hash_rows, hash_columns, hash_bits", "hash", "slice", lambda x, m: cuda_hash.dhash(x, module=m),
           lambda x: torch.from_numpy(dhash(x.numpy()).view(np.int64)), _pixel_work(1)),
]  # fmt: skip
DISTANCES = [
    Kernel("hash_distances", "hash", "pair", lambda x, m: cuda_hash.hamming_matrix(x, module=m),
           lambda x: torch.from_numpy(hamming_matrix(x.numpy().view(np.uint64))), _distance_work),
]  # fmt: skip
PRUNING = [
    Kernel("prune_rank_plain", "prune", "removal", lambda x, m: _order(cuda_prune.rank(x, plain=True, module=m)),
           lambda x: torch.from_numpy(rank(x.numpy()).dropped), _rank_work),
    Kernel("prune_rank", "prune", "removal", lambda x, m: _order(cuda_prune.rank(x, module=m)),
           lambda x: torch.from_numpy(rank(x.numpy()).dropped), _rank_work),
]  # fmt: skip
INTENSITY = [
    Kernel("intensity_summed", "intensity", "slice", lambda x, m: cuda_intensity.to_uint8_summed(x, None, module=m)[1],
           lambda x: torch.from_numpy(of_slices(x.numpy()).view(np.int32)), _pixel_work(3)),
    *(Kernel(name, "intensity", "slice", lambda x, m, limits=limits: cuda_intensity.to_uint8(x, limits, module=m),
           _numpy(definition.to_uint8, limits), _pixel_work(3))
      for name, limits in (("intensity_minmax", None), ("intensity_window", (-1024, 1024)))),
]  # fmt: skip


def inputs(kernel: Kernel, slices: torch.Tensor, hashes: torch.Tensor) -> torch.Tensor:
    """What `kernel` takes, of a volume of slices uint8 (n, H, W) and hashes int64 (n,)."""
    if kernel in DISTANCES:
        return hashes
    if kernel in INTENSITY:
        return slices.short() * 8 - 1024  # HU
    if kernel in PRUNING:
        flat = torch.nn.functional.normalize(slices.flatten(1).float())
        return flat @ flat.T
    return slices


ALL = [*SSIM, *MI, *HASH, *DISTANCES, *PRUNING, *INTENSITY]
