"""What was measured, a JSON file a part in bench/parts/, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

from bench import machine
from lim_gpu.files import write_text

FOLDER = Path(__file__).with_name("parts")
FAILED = "failed: "


@dataclass(frozen=True)
class Row:
    """The seconds that `peer` took for `count` units of a job, round by round."""

    table: str  # of RESULTS.md: peers, ceilings, kernels, growth, datasets or pipeline
    job: str
    peer: str
    device: str  # "cpu" or "cuda"
    unit: str
    count: int
    seconds: list[float]
    n: int | None = None  # slices
    work: dict[str, float] = field(default_factory=dict)  # a unit: resource -> amount, see bench/kernels.py
    error: float | None = None  # the largest deviation from the reference
    memory: int | None = None  # bytes of the GPU in use at the most, the input too
    total: int | None = None  # units of the whole data set, where only a share of it was run
    note: str = ""

    @property
    def each(self) -> float:
        """Median seconds of a unit."""
        return median(self.seconds) / self.count

    @property
    def ours(self) -> bool:
        return self.peer.startswith("lim_gpu")

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles over the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / median(self.seconds)


@dataclass(frozen=True)
class Part:
    """One test of the benchmark: its rows, or why it was skipped."""

    name: str
    key: str
    environment: dict[str, str]
    rows: list[Row]
    skipped: str = ""


def current(name: str) -> bool:
    """Whether this part was measured by this code on this machine."""
    part = _read(name)
    return part is not None and not part.skipped and part.key == machine.key()


def failure(name: str) -> str:
    """Why the last run of this part did not come to its end, "" where it did."""
    part = _read(name)
    return part.skipped if part and part.skipped.startswith(FAILED) else ""


def save(name: str, rows: list[Row]) -> None:
    _write(Part(name, machine.key(), machine.environment(), rows))


def save_skip(name: str, reason: str) -> None:
    """A reason never replaces a measurement, which may come from another machine."""
    part = _read(name)
    if part is None or part.skipped:
        _write(Part(name, "", {}, [], reason))


def load() -> list[Part]:
    """Every part, by name."""
    return [part for path in sorted(FOLDER.glob("*.json")) if (part := _read(path.stem))]


def _write(part: Part) -> None:
    write_text(FOLDER / f"{part.name}.json", json.dumps(asdict(part), indent=1))


def _read(name: str) -> Part | None:
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return Part(**{**values, "rows": [Row(**row) for row in values["rows"]]})
