"""One selection of a comparison: what it keeps, and what every metric says of that."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FIGURES = ("mean", "highest", "covered", "coverage")
Kept = dict[str, NDArray[np.int64]]  # sorted indices by volume key


@dataclass
class Compared:
    """One selection: kept indices by volume, and by metric what was found in each volume (FIGURES of `compare`)."""

    name: str
    method: str
    kept: Kept
    seconds: float | None
    mean: dict[str, list[float]] = field(default_factory=dict)
    highest: dict[str, list[float]] = field(default_factory=dict)
    covered: dict[str, list[float]] = field(default_factory=dict)
    coverage: dict[str, list[float]] = field(default_factory=dict)

    def add(self, metric: str, matrix: NDArray[np.float32], kept: NDArray[np.int64]) -> None:
        """Take what `metric` says of one volume's matrix (n, n)."""
        within = matrix[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
        dropped = np.setdiff1d(np.arange(len(matrix)), kept)
        if len(within):
            self.mean.setdefault(metric, []).append(float(within.mean()))
            self.highest.setdefault(metric, []).append(float(within.max()))
        if len(dropped) and len(kept):
            nearest = matrix[np.ix_(dropped, kept)].max(axis=1)
            self.covered.setdefault(metric, []).append(float(nearest.mean()))
            self.coverage.setdefault(metric, []).append(float(nearest.min()))


def overlap(a: Kept, b: Kept) -> float:
    """|A and B| / |A or B| of two sets of slices."""
    first = {(key, int(i)) for key, kept in a.items() for i in kept}
    second = {(key, int(i)) for key, kept in b.items() for i in kept}
    return len(first & second) / max(1, len(first | second))
