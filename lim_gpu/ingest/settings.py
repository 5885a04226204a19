"""What an ingest was asked for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.outputs import check_folder
from lim_gpu.store.file import COMPRESSIONS

MODALITIES = ("CT", "MR", "PT", "any")
MOST_WORKERS = 16  # a child takes some 100 MB


@dataclass(frozen=True)
class Settings:
    """The options of `ingest`. `store` is absolute: child processes have a working directory of their own."""

    store: Path
    modality: str = "CT"
    skip_bad_slices: bool = False
    keep_identifiers: bool = False
    assume_hu: bool = False
    compression: str | None = None
    patient_pattern: str | None = None
    workers: int = 1
    max_thickness: float | None = None  # mm; no parameter of a store: it changes neither pixels nor keys

    def check(self) -> None:
        """Raise UsageError for a value that does not exist, or an output that is something else."""
        if self.modality not in MODALITIES:
            raise UsageError(f"--modality {self.modality}: unknown. Give one of {', '.join(MODALITIES)}")
        if self.compression is not None and self.compression not in COMPRESSIONS:
            raise UsageError(f"--compression {self.compression}: unknown. Give one of none, {', '.join(COMPRESSIONS)}")
        if self.max_thickness is not None and self.max_thickness <= 0:
            raise UsageError(f"--max-thickness {self.max_thickness:g}: give millimetres, more than 0")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: give 1 or more")
        try:
            re.compile(self.patient_pattern or "")
        except re.error as error:
            raise UsageError(f"--patient-pattern {self.patient_pattern!r}: {error}. Correct it") from None
        check_folder(self.store)
        names = {path.name for path in self.store.iterdir()} if self.store.exists() else set()
        if names and not names & {"store.json", "volumes", ".lock"}:
            raise UsageError(f"{self.store}: holds other files. Choose another -o")

    def parameters(self) -> dict[str, Any]:
        """What store.json says of them: all that changes pixels or keys. The patient pattern may name patients."""
        names = ("modality", "skip_bad_slices", "keep_identifiers", "assume_hu", "compression")
        return {name: getattr(self, name) for name in names}


def default_workers() -> int:
    """One a core that this process may use, within reason."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
