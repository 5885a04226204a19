"""Slices with the next of their volume: what next-slice trains on. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.selection.selected import SelectedSlices


@dataclass(frozen=True, eq=False)
class PairedSlices(SelectedSlices):
    """Slices that have a next one; following (n, 2), int32: volume number and slice of each one's next."""

    following: NDArray[np.int32]


def paired(slices: SelectedSlices, most_mm: float) -> PairedSlices:
    """The slices whose next kept slice of the same volume lies at most `most_mm` away, with that slice.

    Raises InputError where no slice has one.
    """
    places = slices.places
    heights = {number: slices.store[number].z for number in np.unique(places[:, 0]).tolist()}
    z = np.array([heights[number][i] for number, i in places.tolist()])
    near = (np.diff(places[:, 0]) == 0) & (np.diff(z) <= most_mm)
    if not near.any():
        raise InputError(
            f"{slices.source}: no two kept slices of a volume are within {most_mm:g} mm. "
            "Give --set reconstruct.max_mm=..., or a selection that keeps neighbours"
        )
    return PairedSlices(slices.store, slices.selection, places[:-1][near], places[1:][near])
