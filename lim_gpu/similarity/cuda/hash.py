"""HASH on the GPU: kernels/hash.cu. Hashes are uint64 in torch's int64, the same bits."""

from __future__ import annotations

from typing import Any

import torch

from lim_gpu.cuda.module import Module, load
from lim_gpu.similarity.lanczos import lanczos_weights, rows_first

THREADS = 256
MOST_BLOCKS = 1 << 16  # the kernels go on with what is left
ENOUGH_BLOCKS = 4096  # to fill any GPU; work is shared out until there are as many
NO_BITS = 255  # where there is nothing to be near to


def dhash(slices: torch.Tensor, *, module: Module | None = None) -> torch.Tensor:
    """Hashes int64 (n,) of slices uint8 (n, H, W), any H, W >= 1; bit for bit those of imagehash and Pillow."""
    module = module or load("hash")
    n, height, width = slices.shape
    hashes = torch.empty(n, dtype=torch.int64, device=slices.device)
    if n:
        passes = (_rows, _columns) if rows_first(height, width) else (_columns, _rows)
        for resample in passes:
            slices = resample(slices, module)
        module.launch("hash_bits", _blocks(n), THREADS, small=slices, hashes=hashes)
    return hashes


def hamming_matrix(x: torch.Tensor, y: torch.Tensor | None = None, *, module: Module | None = None) -> torch.Tensor:
    """Distances uint8 (a, b) in bits, 0..64, between hashes x (a,) and y (b,), by default x itself."""
    y = x if y is None else y
    distances = torch.empty((len(x), len(y)), dtype=torch.uint8, device=x.device)
    if distances.numel():
        _launch_over("hash_distances", distances, module, x=x, y=y, distances=distances)
    return distances


def matrix_of_hashes(x: torch.Tensor, y: torch.Tensor | None = None, *, module: Module | None = None) -> torch.Tensor:
    """Similarities float32 (a, b), 1 - bits/64 in [0, 1], exact."""
    y = x if y is None else y
    similarities = torch.empty((len(x), len(y)), dtype=torch.float32, device=x.device)
    if similarities.numel():
        _launch_over("hash_similarities", similarities, module, x=x, y=y, similarities=similarities)
    return similarities


class Search:
    """What pruning asks of hashes int64 on a GPU: the nearest of many, and a sweep. `module`: the kernels."""

    def __init__(self, module: Module | None = None) -> None:
        self.module = module or load("hash")

    def nearest(
        self, queries: torch.Tensor, pool: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of the first before[q] of `pool` (b,) for queries (a,), ties to the lowest place.

        before: ascending whole numbers (a,), 0..b. Returns the place int64 (a,) and the bits uint8 (a,); 255 for none.
        """
        nearest = torch.full((len(queries),), NO_BITS << 32, dtype=torch.int64, device=queries.device)
        if len(queries) and len(pool):
            across = -(-len(queries) // THREADS)
            tile, most = self.module.constants["TILE"], 1 << self.module.constants["PLACE_BITS"]
            tiles = -(-len(pool) // tile)
            chunk = min(-(-tiles // -(-ENOUGH_BLOCKS // across)) * tile, most)
            self.module.launch(
                "hash_nearest", (across, -(-len(pool) // chunk)), THREADS, queries=queries, pool=pool,
                before=before.int(), nearest=nearest, chunk=chunk,
            )  # fmt: skip
        return nearest & 0xFFFFFFFF, (nearest >> 32).to(torch.uint8)

    def sweep(self, hashes: torch.Tensor, numbers: torch.Tensor, remover: torch.Tensor, reach: int) -> None:
        """Walk hashes (n,) in order; each one left drops every later one within `reach` bits.

        numbers  int32 (n,), ascending: what stands for each in `remover`
        remover  int32 (n,): NOBODY for those that are left; gets the number of the first that drops each
        """
        n, block = len(hashes), self.module.constants["SETTLED"]
        leaders: dict[str, Any] = {
            "leaders": hashes.new_empty(block),
            "leader_numbers": numbers.new_empty(block),
            "count": numbers.new_empty(1),
        }
        for first in range(0, n, block):  # in order on one stream: nothing waits for the host
            self.module.launch(
                "hash_settle", 1, block, hashes=hashes, numbers=numbers, remover=remover, first=first, reach=reach,
                **leaders,
            )  # fmt: skip
            if (later := n - first - block) > 0:
                self.module.launch(
                    "hash_drop", _blocks(later), THREADS, hashes=hashes, remover=remover, first=first + block,
                    reach=reach, **leaders,
                )  # fmt: skip


def _launch_over(kernel: str, result: torch.Tensor, module: Module | None, **arguments: Any) -> None:
    """A thread a column of the result (a, b), going down the rows of its block."""
    rows, columns = result.shape
    across = _blocks(columns)
    grid = across, min(rows, -(-ENOUGH_BLOCKS // across))
    (module or load("hash")).launch(kernel, grid, THREADS, **arguments)


def _rows(slices: torch.Tensor, module: Module) -> torch.Tensor:
    """Slices uint8 (n, H, W) as (n, H, 9): a warp a row."""
    n, height, width = slices.shape
    narrow = slices.new_empty((n, height, module.constants["ACROSS"]))
    weights = _weights(width, module.constants["ACROSS"], module.constants["PRECISION"], slices.device)
    module.launch("hash_rows", _blocks(n * height * 32), THREADS, slices=slices, narrow=narrow, **weights)
    return narrow


def _columns(slices: torch.Tensor, module: Module) -> torch.Tensor:
    """Slices uint8 (n, H, W) as (n, 8, W): a thread a pixel."""
    n, height, width = slices.shape
    low = slices.new_empty((n, module.constants["DOWN"], width))
    weights = _weights(height, module.constants["DOWN"], module.constants["PRECISION"], slices.device)
    module.launch("hash_columns", _blocks(low.numel()), THREADS, slices=slices, low=low, **weights)
    return low


def _blocks(threads: int) -> int:
    return min(-(-threads // THREADS), MOST_BLOCKS)


def _weights(size: int, outputs: int, precision: int, device: torch.device) -> dict[str, Any]:
    tables = lanczos_weights(size, outputs, precision)._asdict()
    return {name: torch.from_numpy(table).to(device) for name, table in tables.items()}
