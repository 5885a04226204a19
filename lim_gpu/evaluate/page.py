"""The evaluations as one offline page: tables, the picture of time against AUC, and the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.claim import NOTES, PICTURE, Told
from lim_gpu.evaluate.grid import Grid
from lim_gpu.evaluate.strength import STRENGTH_PICTURE, strength_picture
from lim_gpu.evaluate.table import TIME_PICTURE, TITLES, Found, cells, time_picture
from lim_gpu.files import replacing
from lim_gpu.report.page import file_uri, svg_text, write_page


def write_evaluation(
    output: Path,
    tables: dict[str, list[dict[str, Any]]],
    grid: Grid,
    found: Sequence[Found],
    values: dict[str, Any],
    claim: Told | None = None,
) -> None:
    """Write evaluation.html into `output`, and the pictures of evaluations D and F and of the claim."""
    drawn = {}
    for evaluation, draw, name in (("D", time_picture, TIME_PICTURE), ("F", strength_picture, STRENGTH_PICTURE)):
        if evaluation in tables:
            drawn[evaluation] = _saved(draw(tables[evaluation], grid), output / name)
    if claim and claim.figure:
        _saved(claim.figure, output / PICTURE)
    write_page(
        output / "evaluation.html",
        "evaluation.html",
        tables=[(name, TITLES[name], cells(rows, grid)) for name, rows in tables.items()],
        drawn=drawn,
        claim=claim and claim.sections,
        seeds=claim and claim.figure and svg_text(claim.figure),
        claim_notes=NOTES,
        found=[(one, file_uri(output / one.picture)) for one in found],
        caveats=values["caveats"],
        failures=values["failures"],
        versions=values["versions"],
    )


def _saved(figure: Any, path: Path) -> str:
    """Write the figure as PNG; the same as text of SVG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return svg_text(figure)
