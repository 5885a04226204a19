"""The comparison of selections for a person: how much each keeps, a block a metric, and what two share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lim_gpu.reduction.request import HASH_BITS, SCALES

COLUMNS = 80  # of a terminal
LONGEST = 40  # name of a selection


def table(values: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """Lines of at most 80 columns. values: what `compare` writes as JSON."""
    rows = values["rows"]
    names = [_short(row["name"]) for row in rows]
    width = max(len("selection"), *map(len, names)) + 2
    lines = [f"{'selection':<{width}}{'kept':>9}{'seconds':>10}"]
    for name, row in zip(names, rows, strict=True):
        lines.append(f"{name:<{width}}{row['kept']:>9,}{_cell(row['seconds'], 1):>10}")
    for metric in metrics:
        lines += ["", *_block(metric, names, rows, width)]
    lines += ["", "means over the volumes; mean and max of the pairs kept: less alike is better;"]
    lines += ["covered, worst: dropped slices to their nearest kept: more alike is better", ""]
    return [*lines, *_shared(names, values["overlap"], width)]


def _block(metric: str, names: Sequence[str], rows: Sequence[dict[str, Any]], width: int) -> list[str]:
    """What one metric says, hashes in bits."""
    bits = metric == "hash"
    most = "fewest" if bits else "max"
    lines = [f"{SCALES[metric]:<{width}}{'mean':>9}{most:>10}{'covered':>10}{'worst':>9}"]
    for name, row in zip(names, rows, strict=True):
        found = [row[f"{metric}_{what}"] for what in ("mean", "highest", "covered", "coverage")]
        own = [HASH_BITS * (1 - value) if bits and value is not None else value for value in found]
        mean, highest, covered, worst = (_cell(value, 1 if bits else 3) for value in own)
        lines.append(f"{name:<{width}}{mean:>9}{highest:>10}{covered:>10}{worst:>9}")
    return lines


def _shared(names: Sequence[str], overlap: Sequence[Sequence[float]], width: int) -> list[str]:
    """The table of what two share, its columns in as many pieces as the width of a terminal asks for."""
    lines = ["slices that two share, % of all that either keeps; columns numbered as the rows"]
    each = (COLUMNS - width - 3) // 5
    for start in range(0, len(names), each):
        places = range(start, min(start + each, len(names)))
        lines.append(" " * (width + 3) + "".join(f"{place + 1:>5}" for place in places))
        for number, (name, shares) in enumerate(zip(names, overlap, strict=True), 1):
            cells = "".join(f"{100 * shares[place]:>5.0f}" for place in places)
            lines.append(f"{number:>2} {name:<{width}}{cells}")
    return lines


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _cell(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
