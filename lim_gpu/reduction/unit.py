"""The units that are reduced one by one: volumes that are pruned together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lim_gpu.files import fingerprint

if TYPE_CHECKING:
    from lim_gpu.store.volume import VolumeEntry
from lim_gpu.reduction.request import ALGORITHM, BASELINES, Request


@dataclass(frozen=True)
class Unit:
    """Volumes that are pruned together. `place` is its position among the units, which seeds follow."""

    name: str
    place: int
    volumes: tuple[VolumeEntry, ...]

    def fingerprint(self, request: Request) -> str:
        """Changes with the pixels, the parameters and the algorithm; with nothing else."""
        volumes = [[entry.key, entry.digest] for entry in self.volumes]
        place = self.place if request.method == "random" else 0
        return fingerprint([ALGORITHM, request.parameters(), place, volumes])

    def singly(self) -> list[Unit]:
        """Each of its volumes alone, as a unit of its own."""
        return [Unit(entry.key, place, (entry,)) for place, entry in enumerate(self.volumes)]

    @property
    def is_volume(self) -> bool:
        """Whether it is one volume, under the name of that."""
        return [entry.key for entry in self.volumes] == [self.name]

    @property
    def slices(self) -> int:
        """Slices of all its volumes."""
        return sum(entry.shape[0] for entry in self.volumes)

    def pairs(self, method: str) -> int:
        """Pairs that are compared; SSIM and MI compare slices of equal shape only."""
        if method in BASELINES:
            return 0
        counts: dict[tuple[int, int], int] = {}
        for entry in self.volumes:
            shape = entry.shape[1:] if method in ("ssim", "mi") else (0, 0)
            counts[shape] = counts.get(shape, 0) + entry.shape[0]
        return sum(n * (n - 1) // 2 for n in counts.values())


def units_of(entries: Sequence[VolumeEntry], scope: str) -> list[Unit]:
    """The volumes of a store grouped by scope, in natural order of the first volume of each unit."""
    groups: dict[str, list[VolumeEntry]] = {}
    for entry in entries:
        name = {"volume": entry.key, "patient": f"patient-{entry.patient}", "dataset": "dataset"}[scope]
        groups.setdefault(name, []).append(entry)
    return [Unit(name, place, tuple(volumes)) for place, (name, volumes) in enumerate(groups.items())]


def in_words(scope: str) -> str:
    """What a unit of a scope is called."""
    return "data set" if scope == "dataset" else scope
