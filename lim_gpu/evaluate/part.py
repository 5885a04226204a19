"""What a page tells of an evaluation: tables, a picture, and what must be known beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Lines = Sequence[Sequence[str]]  # of a table, its head first


@dataclass(frozen=True)
class Part:
    """Of one evaluation.

    tables: by what they are of; figure: drawn, or None; images: pictures that stand below the output, by their titles
    """

    name: str
    title: str
    tables: Mapping[str, Lines]
    values: Any
    notes: tuple[str, ...] = ()
    figure: Any = None
    images: dict[str, str] = field(default_factory=dict)

    @property
    def picture(self) -> str:
        """The file of the figure."""
        return f"{self.name}.png"


def markdown(parts: Sequence[Part], caveats: Sequence[str]) -> str:
    """All parts as one text."""
    lines: list[str] = []
    for part in parts:
        lines += [f"## {part.name}: {part.title}", ""]
        for title, (head, *rows) in part.tables.items():
            lines += [title, ""] if title else []
            lines += [*table_lines(head, rows), ""]
        lines += [f"![{part.title}]({part.picture})", ""] if part.figure else []
        lines += [*(f"- {note}" for note in part.notes), ""] if part.notes else []
    return "\n".join([*lines, "## What to know", "", *(f"- {caveat}" for caveat in caveats), ""])


def table_lines(head: Sequence[str], rows: Lines) -> list[str]:
    """A table in Markdown."""
    return [_line(head), f"|{' --- |' * len(head)}", *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
