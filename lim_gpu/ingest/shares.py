"""A large compressed series on all cores: children decode shares of its slices, and one that writes it joins them.

A share is a file of pixels for a while. Decoding a slice takes many times as long as passing it on like this; reading
an uncompressed one does not, so such series are left to one child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from lim_gpu.files import temporary_of
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import Decoded, SourceError
from lim_gpu.ingest.settings import Settings
from lim_gpu.ingest.slices import decoded_slices
from lim_gpu.ingest.volume_plan import VolumePlan
from lim_gpu.store.slices import volume_path
from lim_gpu.workers import tick

LEAST = 16  # slices of a share


@dataclass(frozen=True)
class Share:
    """Some of a volume's slices, and the file in which their pixels will stand one behind the other."""

    plan: VolumePlan
    raw: Path


@dataclass(frozen=True)
class DecodedShare:
    """The pixels of a share; and of each slice what was done to them, or why it has none there."""

    raw: Path
    outcomes: tuple[Counter[str] | SourceError, ...]


def worth_sharing(plans: Sequence[VolumePlan], workers: int) -> list[VolumePlan]:
    """Compressed series that one child would still be at when the others have done all the rest."""
    total = sum(plan.size for plan in plans)
    return [plan for plan in plans if _compressed(plan) and plan.size * workers > total and _parts(plan, workers) > 1]


def _compressed(plan: VolumePlan) -> bool:
    pixels = plan.slices[0].pixels
    return pixels is not None and pixels.length is None


def _parts(plan: VolumePlan, workers: int) -> int:
    return min(workers, len(plan.slices) // LEAST)


@contextmanager
def shares_of(plan: VolumePlan, workers: int, store: Path) -> Iterator[list[Share]]:
    """Equal shares of a volume, in order. Their files are removed at the end."""
    plan = plan.unpacked()
    ends = [len(plan.slices) * i // _parts(plan, workers) for i in range(_parts(plan, workers) + 1)]
    pieces = [plan.slices[first:last] for first, last in pairwise(ends)]
    shares = [Share(replace(plan, slices=piece), temporary_of(volume_path(store, plan.key))) for piece in pieces]
    try:
        yield shares
    finally:
        for share in shares:
            share.raw.unlink(missing_ok=True)


def decode_share(share: Share, settings: Settings) -> DecodedShare:
    """Decode the slices into the share's file (in a child process)."""
    silence()
    outcomes: list[Counter[str] | SourceError] = []
    share.raw.parent.mkdir(parents=True, exist_ok=True)
    with open(share.raw, "wb") as file:
        for decoded in decoded_slices(share.plan.unpacked(), settings):
            tick()
            if isinstance(decoded, Decoded):
                file.write(np.ascontiguousarray(decoded.pixels).data)
            outcomes.append(decoded.counts if isinstance(decoded, Decoded) else decoded)
    return DecodedShare(share.raw, tuple(outcomes))


def joined(shares: Sequence[DecodedShare], plan: VolumePlan) -> Iterator[Decoded | SourceError]:
    """What `decoded_slices` of the whole volume would give."""
    for share in shares:
        with open(share.raw, "rb") as file:
            for outcome in share.outcomes:
                if isinstance(outcome, SourceError):
                    yield outcome
                    continue
                pixels = np.empty((plan.rows, plan.columns), plan.dtype)
                if file.readinto(pixels.data.cast("B")) != pixels.nbytes:
                    raise SourceError("a share of it was cut", "Run the command again")
                yield Decoded(pixels, outcome)
