"""What an ingest did, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lim_gpu.ingest.failures import Failure
from lim_gpu.progress import Outcome


@dataclass
class IngestReport:
    """`written` and `reused` are volumes; `slices` are those of both. `counted`: files that are no input, by kind.

    `failures` did not reach the store, whole or in part; `defects` are (volume, what is wrong with it), `planned` the
    volumes of a dry run as (source, (slices, rows, columns)).
    """

    store: Path
    written: int = 0
    reused: int = 0
    slices: int = 0
    failures: list[Failure] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    defects: list[tuple[str, str]] = field(default_factory=list)
    planned: list[tuple[str, tuple[int, int, int]]] = field(default_factory=list)
    unchanged: bool = False
    dry_run: bool = False

    def outcome(self) -> Outcome:
        """For the command line."""
        return Outcome(self.values(), self.lines(), bool(self.failures))

    def values(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "store": str(self.store),
            "written": self.written,
            "reused": self.reused,
            "slices": self.slices,
            "unchanged": self.unchanged,
            "dry_run": self.dry_run,
            "failures": [{"path": failure.path, "cause": failure.cause} for failure in self.failures],
            "counted": self.counted,
            "defects": [{"volume": volume, "defect": text} for volume, text in self.defects],
            "planned": [{"source": source, "shape": list(shape)} for source, shape in self.planned],
        }

    def lines(self) -> list[str]:
        """The report as lines of text. Failures and defects were said when they were met."""
        if self.dry_run:
            lines = [f"plan: {source}" for source, _shape in self.planned]
            lines.append(f"plan: {len(self.planned)} volumes, {self.slices:,} slices -> {self.store}")
        elif self.unchanged:
            lines = [f"unchanged: {self.store}, {self.reused} volumes, {self.slices:,} slices"]
        else:
            total = self.written + self.reused
            again = f", {self.reused} of them from before" if self.reused else ""
            lines = [f"{total} volumes, {self.slices:,} slices{again} -> {self.store}"]
        if self.counted:
            lines.append("passed by: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.counted.items())))
        if self.failures:
            lines.append(f"failed: {len(self.failures)}")
        return lines
