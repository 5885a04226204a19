"""What choosing needs of the pixels: the hashes of a unit, or the similarities of all its pairs.

They do not depend on how many slices are kept, so they stand as a part of their own, and another keep or threshold
reads no pixels but those of pairs near the threshold. Hashes stand volume by volume, so that another scope shares them,
too, and hashing many volumes goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import fingerprint, write_bytes
from lim_gpu.reduction.parts import load_measure, measure_stands, save_measure
from lim_gpu.reduction.request import ALGORITHM, Request
from lim_gpu.reduction.unit import Unit

if TYPE_CHECKING:
    import torch

    from lim_gpu.reduction.engine import StoredMatrix
    from lim_gpu.store.volume import Volume, VolumeEntry

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
    if request.method == "hash" and not unit.is_volume:
        each = zip(unit.singly(), volumes, strict=True)
        return torch.cat([measure_unit(one, [volume], request, engine, parts) for one, volume in each])
    values = engine.hashes(volumes) if request.method == "hash" else engine.compute(volumes)
    if parts and values.numel() * values.element_size() <= MOST_BYTES:
        save_measure(parts, unit.name, own, values.cpu().numpy())
    return values


def unmeasured(unit: Unit, request: Request, parts: Path | None) -> list[VolumeEntry]:
    """The volumes whose pixels `measure_unit` will read. Reads a few bytes of each part."""
    if is_measured(unit, request, parts):
        return []
    if request.method == "hash" and not unit.is_volume:
        return [entry for one in unit.singly() for entry in unmeasured(one, request, parts)]
    return list(unit.volumes)


def is_measured(unit: Unit, request: Request, parts: Path | None) -> bool:
    """Whether it stands as one part. Reads a few bytes."""
    return parts is not None and measure_stands(parts, unit.name, measure_fingerprint(unit, request))


def borrow_hashes(units: Sequence[Unit], request: Request, parts: Path, others: Iterable[Path] | None = None) -> None:
    """Give `parts` the hashes of volumes that stand in `others`: where not told, all folders of parts beside it."""
    others = parts.parent.glob("*.parts") if others is None else others
    lenders = sorted(folder for folder in others if folder != parts)
    for one in (one for unit in units for one in unit.singly()) if lenders else ():
        if is_measured(one, request, parts):
            continue
        if (lender := next((folder for folder in lenders if is_measured(one, request, folder)), None)) is not None:
            _lend(lender / f"{one.name}.npz", parts / f"{one.name}.npz")


def _lend(file: Path, to: Path) -> None:
    """No part is ever changed in its place, so two folders may hold the same one."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        to.unlink(missing_ok=True)
        os.link(file, to)
    except OSError:  # a file system without hard links
        write_bytes(to, file.read_bytes())


def measure_fingerprint(unit: Unit, request: Request) -> str:
    """Of the pixels, the criterion and the algorithm; not of keep, threshold, rule and order."""
    volumes = [(entry.key, entry.digest) for entry in unit.volumes]
    return _fingerprint(request.method, request.criterion.parameters(), volumes)


def find_measure(
    parts: Path, unit: str, method: str, criterion: dict[str, Any], volumes: Sequence[tuple[str, str]]
) -> NDArray[Any] | None:
    """What `measure_unit` left in `parts` of a unit; None where something of it is not there.

    criterion: its parameters; volumes: key and digest of each.
    """
    found = load_measure(parts, unit, _fingerprint(method, criterion, volumes))
    if found is not None or method != "hash":
        return found
    each = [load_measure(parts, key, _fingerprint(method, criterion, [(key, digest)])) for key, digest in volumes]
    known = [hashes for hashes in each if hashes is not None]
    return np.concatenate(known) if len(known) == len(each) else None


def _fingerprint(method: str, criterion: dict[str, Any], volumes: Sequence[tuple[str, str]]) -> str:
    return fingerprint([ALGORITHM, method, criterion, volumes])
