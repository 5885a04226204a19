"""What an ingest did, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lim_gpu.ingest.failures import Failure
from lim_gpu.progress import Outcome, counted, few, hosts_in_words

MANY = 10  # volumes of one slice, from which on a hint is worth a line
SINGLE = (
    "A picture of another size or folder is a volume of its own: names such as case_1.png and case_2.png join those of "
    "one size, and lim-gpu reduce --scope dataset compares all"
)


def passed_by(counted: Mapping[str, int], examples: Mapping[str, str]) -> list[str]:
    """What is no input, by kind, with the path of one where that is known."""
    texts = []
    for kind, count in sorted(counted.items()):
        example = f"{': ' if count == 1 else ' such as '}{examples[kind]}" if kind in examples else ""
        texts.append(f"{count} {kind}{example}")
    return texts


@dataclass
class IngestReport:
    """`written` and `reused` are volumes; `slices` are those of both. `counted`: files that are no input, by kind, of
    which `examples` has a path each, for the user alone: no store knows it.

    `failures` did not reach the store, whole or in part; `defects` are (volume, what is wrong with it), `planned` the
    volumes of a dry run as (source, (slices, rows, columns)). `single`: volumes of one slice. `hosts`: how many each
    converted, None where this machine did.
    """

    store: Path
    written: int = 0
    reused: int = 0
    slices: int = 0
    single: int = 0
    failures: list[Failure] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    defects: list[tuple[str, str]] = field(default_factory=list)
    planned: list[tuple[str, tuple[int, int, int]]] = field(default_factory=list)
    unchanged: bool = False
    dry_run: bool = False
    hosts: dict[str, int] | None = None
    shard: str | None = None  # I/N, where this was a part of the work

    def outcome(self) -> Outcome:
        """For the command line."""
        return Outcome(self.values(), self.lines(), bool(self.failures))

    def values(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        parts = {"hosts": None if self.hosts is None else dict(self.hosts), "shard": self.shard}
        return {name: value for name, value in parts.items() if value is not None} | {
            "store": str(self.store),
            "written": self.written,
            "reused": self.reused,
            "slices": self.slices,
            "single": self.single,
            "unchanged": self.unchanged,
            "dry_run": self.dry_run,
            "failures": [{"path": failure.path, "cause": failure.cause} for failure in self.failures],
            "counted": self.counted,
            "examples": self.examples,
            "defects": [{"volume": volume, "defect": text} for volume, text in self.defects],
            "planned": [{"source": source, "shape": list(shape)} for source, shape in self.planned],
        }

    def lines(self) -> list[str]:
        """The report as lines of text. Failures and defects were said when they were met."""
        slices = counted(self.slices, "slice")
        if self.dry_run:
            lines = few([f"plan: {source}" for source, _shape in self.planned], "volumes. --json lists all")
            lines.append(f"plan: {counted(len(self.planned), 'volume')}, {slices} -> {self.store}")
        elif self.unchanged:
            lines = [f"unchanged: {self.store}, {counted(self.reused, 'volume')}, {slices}"]
        else:
            again = f", {self.reused} of them from before" if self.reused else ""
            part = "" if self.shard is None else f"shard {self.shard}: "
            lines = [f"{part}{counted(self.written + self.reused, 'volume')}, {slices}{again} -> {self.store}"]
        if self.shard is not None:
            lines.append("when all shards have ended, the same command without --shard makes the store")
        if self.hosts:
            lines.append(f"hosts: {hosts_in_words(self.hosts)}")
        if self.single >= MANY and 2 * self.single > self.slices:
            lines.append(f"{self.single} volumes have one slice. {SINGLE}")
        if self.counted:
            lines.append("passed by: " + ", ".join(passed_by(self.counted, self.examples)))
        if self.failures:
            lines.append(f"failed: {len(self.failures)}")
        return lines
