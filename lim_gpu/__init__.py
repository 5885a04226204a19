"""Every pairwise slice similarity of a CT volume, the redundant slices pruned, and training on what is left.

The public names load on first use (PEP 562), so that `import lim_gpu` needs neither torch nor a GPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lim_gpu.dataset import SliceDataset as SliceDataset
    from lim_gpu.errors import LimGpuError as LimGpuError
    from lim_gpu.pruning.ranking import Ranking as Ranking
    from lim_gpu.pruning.rules import prune as prune
    from lim_gpu.pruning.rules import rank as rank
    from lim_gpu.reduction.run import reduce as reduce
    from lim_gpu.selection import Selection as Selection
    from lim_gpu.similarity import similarity_matrix as similarity_matrix
    from lim_gpu.store.slices import SliceStore as SliceStore

__version__ = "0.1.0"

_HOMES = {
    "LimGpuError": "lim_gpu.errors",
    "Ranking": "lim_gpu.pruning.ranking",
    "Selection": "lim_gpu.selection",
    "SliceDataset": "lim_gpu.dataset",
    "SliceStore": "lim_gpu.store.slices",
    "prune": "lim_gpu.pruning.rules",
    "rank": "lim_gpu.pruning.rules",
    "reduce": "lim_gpu.reduction.run",
    "similarity_matrix": "lim_gpu.similarity",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lim_gpu' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
