"""HTML pages that stand alone: one file, no network, light and dark, readable on a phone."""

from __future__ import annotations

import base64
import io
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lim_gpu.files import file_sha256, fingerprint, write_text

HERE = Path(__file__).parent


def made_by(*patterns: str) -> str:
    """Changes with the version, and with the files of this folder that `patterns` name: they may within a version.

    Raises FileNotFoundError for a pattern that names none.
    """
    files = sorted({path for pattern in patterns for path in _named(pattern)})
    return fingerprint([version("lim-gpu"), [[path.name, file_sha256(path)] for path in files]])


def _named(pattern: str) -> list[Path]:
    if not (found := list(HERE.glob(pattern))):
        raise FileNotFoundError(HERE / pattern)
    return found


def made_with(template: str) -> str:
    """`made_by` of a page that is filled in elsewhere."""
    return made_by("page.py", "templates/page.html", "templates/table.html", f"templates/{template}")


def write_page(path: Path, template: str, *, made_of: str = "", **values: Any) -> None:
    """Fill `templates/TEMPLATE` and replace `path` by it. Everything that is filled in is escaped.

    made_of: a fingerprint, which `page_is_made_of` finds again.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lim_gpu.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(**values) + _mark(made_of))


def page_is_made_of(path: Path, fingerprint: str) -> bool:
    """Whether a page stands at `path` that was made of what has this fingerprint."""
    mark = _mark(fingerprint).encode()
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(mark)))
        return file.read() == mark


def _mark(fingerprint: str) -> str:
    return f"\n<!-- made of {fingerprint} -->\n" if fingerprint else ""


def file_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def svg_text(figure: Any) -> str:
    """A matplotlib figure as an <svg> element: text stays text, nothing is linked, equal figures give equal bytes."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lim-gpu"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return re.sub(
        r"<metadata>.*?</metadata>| xmlns(:xlink)?=\"[^\"]*\"", "", text[text.index("<svg") :], flags=re.DOTALL
    )
