"""Every expected error says what to do: the texts that the package raises name a remedy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lim_gpu

PACKAGE = Path(lim_gpu.__file__).parent
RAISED = {"UsageError", "InputError", "LimGpuError", "NoGpuError"}
VERBS = (
    "add begin bring change check choose complete copy correct delete download export free give ingest install leave "
    "look lower make move name put quote remove rename repair replace report resample restore run save see set split "
    "start take update use wait"
)
REMEDY = re.compile(rf"(^|[.:,;] |\}}|\bor )({'|'.join(VERBS.split())})\b", re.IGNORECASE)
# Expressions that hold a remedy: tests of their own look at them.
HOLDS = (
    *(r"_why\(.+\)", r"_remedy\(.+\)", r"_changed\(.+\)", r"outcome\.error", "remedy", "wider", "one", "text", "first"),
    *("complaint", "AGAIN", "DELETE", "NO_WANDB", "NOT_FINITE"),
)
NAMED = re.compile(rf"\{{({'|'.join(HOLDS)})\}}|: \{{error\}}$")  # an error of ours, told on
# Texts to which another puts the name of the file and the remedy, and faults of who wrote a kernel or a writer.
WITHIN = {
    *(f"store/{name}.py" for name in ("chunks", "file", "guards", "header", "writer")),
    "cuda/module.py",
    "pictures.py",
    "sharing.py",
}


def texts(path: Path) -> list[tuple[int, str]]:
    """Line and text of every error that is raised with one; an expression stands as {its source}."""
    source = path.read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    raised = [node for node in calls if getattr(node.func, "id", "") in RAISED]
    return [(node.lineno, _text(node.args[0], source)) for node in raised]


def _text(node: ast.expr, source: str) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, source) for part in node.values)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    return "{" + str(ast.get_source_segment(source, inner)).replace("}", "") + "}"


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if str(p.relative_to(PACKAGE)) not in WITHIN], ids=str
)
def test_an_error_names_the_remedy(path):
    without = [(line, text) for line, text in texts(path) if not REMEDY.search(text) and not NAMED.search(text)]
    assert not without


def test_the_search_finds_what_has_none(tmp_path):
    lines = ('UsageError("x is bad")', 'InputError(f"{path}: x. Give y")', 'LimGpuError(f"{path}: {remedy}")')
    (tmp_path / "module.py").write_text("\n".join(lines))
    found = texts(tmp_path / "module.py")
    assert [text for _, text in found] == ["x is bad", "{path}: x. Give y", "{path}: {remedy}"]
    assert [bool(REMEDY.search(text) or NAMED.search(text)) for _, text in found] == [False, True, True]
