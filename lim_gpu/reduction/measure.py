"""What choosing needs of the pixels: the hashes of a unit, or the similarities of all its pairs.

They do not depend on how many slices are kept, so they stand as a part of their own, and another keep or threshold
reads no pixels but those of pairs near the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lim_gpu.files import fingerprint
from lim_gpu.reduction.parts import load_measure, measure_stands, save_measure
from lim_gpu.reduction.request import ALGORITHM, Request
from lim_gpu.reduction.unit import Unit

if TYPE_CHECKING:
    import torch

    from lim_gpu.reduction.engine import StoredMatrix
    from lim_gpu.store.volume import Volume

MOST_BYTES = 256 << 20  # of a matrix that is kept: 8,192 slices


def measure_unit(
    unit: Unit, volumes: Sequence[Volume], request: Request, engine: StoredMatrix, parts: Path | None
) -> torch.Tensor:
    """Hashes (n,) for HASH, else the matrix (n, n), on the engine's device: out of `parts`, or computed and kept there.

    Raises UnreadableVolumeError for a volume that cannot be read.
    """
    import torch

    own = measure_fingerprint(unit, request)
    standing = load_measure(parts, unit.name, own) if parts else None
    if standing is not None:
        return torch.from_numpy(standing).to(engine.device)
    values = engine.hashes(volumes) if request.method == "hash" else engine.compute(volumes)
    if parts and values.numel() * values.element_size() <= MOST_BYTES:
        save_measure(parts, unit.name, own, values.cpu().numpy())
    return values


def is_measured(unit: Unit, request: Request, parts: Path | None) -> bool:
    """Whether `measure_unit` will find it. Reads a few bytes."""
    return parts is not None and measure_stands(parts, unit.name, measure_fingerprint(unit, request))


def measure_fingerprint(unit: Unit, request: Request) -> str:
    """Of the pixels, the criterion and the algorithm; not of keep, threshold, rule and order."""
    volumes = [[entry.key, entry.digest] for entry in unit.volumes]
    return fingerprint([ALGORITHM, request.method, request.criterion.parameters(), volumes])
