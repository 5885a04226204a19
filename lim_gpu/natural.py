"""The order in which people count: slice_2 before slice_10."""

from __future__ import annotations

import re


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key of a name: its digits count as numbers, which come before other text."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split("([0-9]+)", name) if part]
