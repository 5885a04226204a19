"""All that was measured, and the questions that tables, goals and plots ask of it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.parts import Part, Row


@dataclass(frozen=True)
class Results:
    """The parts of all runs."""

    parts: list[Part]

    def rows(self, table: str, job: str | None = None, device: str | None = None) -> list[Row]:
        return [
            row
            for part in self.parts
            for row in part.rows
            if row.table == table and job in (None, row.job) and device in (None, row.device)
        ]

    def one(self, table: str, job: str, peer: str, device: str) -> Row | None:
        return next((row for row in self.rows(table, job, device) if row.peer == peer), None)

    def ours(self, job: str, device: str) -> Row | None:
        """What peers are compared with, in float32: one thread on the CPU, the best volume on the GPU."""
        mine = [row for row in self.rows("peers", job, device) if row.ours and "bfloat16" not in row.peer]
        mine = [row for row in mine if device == "cuda" or row.peer in ("lim_gpu", "lim_gpu, 1 thread")]
        return min(mine, key=lambda row: row.each, default=None)

    def faster(self, job: str, peer: str, device: str) -> float | None:
        """How many times faster lim_gpu is than a peer."""
        theirs, ours = self.one("peers", job, peer, device), self.ours(job, device)
        return theirs.each / ours.each if theirs and ours else None

    def limit(self, row: Row) -> tuple[float, str] | None:
        """The share of the limit that a row reaches, and the resource that sets it: by the ceilings of the same GPU."""
        gpu = next(part.environment.get("GPU") for part in self.parts if row in part.rows)
        there = [part for part in self.parts if part.environment.get("GPU") == gpu]
        rates = {row.peer: 1 / row.each for part in there for row in part.rows if row.table == "ceilings"}
        shares = [(row.work[name] / rates[name] / row.each, name) for name in row.work if name in rates]
        return max(shares, default=None)
