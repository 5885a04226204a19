"""Numbers as a person reads them, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable

PREFIXES = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"))
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"))


def table(heads: list[str], body: Iterable[list[str]]) -> list[str]:
    rows = [heads, ["---"] * len(heads), *body]
    return [f"| {' | '.join(cells)} |" for cells in rows]


def time(seconds: float) -> str:
    size, name = next((unit for unit in UNITS if seconds >= unit[0]), UNITS[-1])
    return f"{seconds / size:.3g} {name}"


def amount(value: float) -> str:
    size, name = next((prefix for prefix in reversed(PREFIXES) if value >= prefix[0]), PREFIXES[0])
    return f"{value / size:.3g} {name}".rstrip()


def times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def number(n: int | None) -> str:
    return f"{n:,}" if n else ""


def percent(share: float) -> str:
    return f"{share:.0%}"


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def gibibytes(size: int | None) -> str:
    return f"{size / 2**30:.2f} GiB" if size else ""
