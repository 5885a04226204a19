"""The evaluations as one offline page: tables, the picture of time against AUC, and the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.claim import NOTES, PICTURE, Told
from lim_gpu.evaluate.grid import Grid
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
    """Write evaluation.html into `output`, with evaluation D time-auc.png, and the picture of the claim."""
    drawn = None
    if "D" in tables:
        figure = time_picture(tables["D"], grid)
        with replacing(output / TIME_PICTURE) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        drawn = svg_text(figure)
    if claim and claim.figure:
        with replacing(output / PICTURE) as temporary:
            claim.figure.savefig(temporary, format="png", dpi=110)
    write_page(
        output / "evaluation.html",
        "evaluation.html",
        tables=[(name, TITLES[name], cells(rows, grid)) for name, rows in tables.items()],
        time=drawn,
        claim=claim and claim.sections,
        seeds=claim and claim.figure and svg_text(claim.figure),
        claim_notes=NOTES,
        found=[(one, file_uri(output / one.picture)) for one in found],
        caveats=values["caveats"],
        failures=values["failures"],
        versions=values["versions"],
    )
