"""The second paper's evaluations as one offline page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.part import Part
from lim_gpu.files import replacing
from lim_gpu.report.page import file_uri, svg_text, write_page


def write_study(path: Path, parts: Sequence[Part], values: dict[str, Any]) -> None:
    """Write the page `path`, and beside it a PNG of every part that has a figure."""
    for part in parts:
        if part.figure is not None:
            with replacing(path.with_name(part.picture)) as temporary:
                part.figure.savefig(temporary, format="png", dpi=110)
    write_page(
        path,
        "pretext.html",
        parts=[(part, part.figure and svg_text(part.figure), _images(path, part)) for part in parts],
        caveats=values["caveats"],
        failures=values["failures"],
        versions=values["versions"],
    )


def _images(path: Path, part: Part) -> list[tuple[str, str]]:
    return [(title, file_uri(path.parent / name)) for title, name in part.images.items()]
