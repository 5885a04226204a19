"""The evaluations as one offline page: tables, the picture of time against AUC, and the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
) -> None:
    """Write evaluation.html into `output`, and with evaluation D time-auc.png."""
    drawn = None
    if "D" in tables:
        figure = time_picture(tables["D"], grid)
        with replacing(output / TIME_PICTURE) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        drawn = svg_text(figure)
    write_page(
        output / "evaluation.html",
        "evaluation.html",
        tables=[(name, TITLES[name], cells(rows, grid)) for name, rows in tables.items()],
        time=drawn,
        found=[(one, file_uri(output / one.picture)) for one in found],
        caveats=values["caveats"],
        failures=values["failures"],
        versions=values["versions"],
    )
