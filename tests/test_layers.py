"""The direction of the data: a module imports only from what stands before it; the light ones load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lim_gpu

PACKAGE = Path(lim_gpu.__file__).parent
ORDER = (
    "errors files progress workers hdf5_guards volume_header volume_file volume store intensity ingest "
    "similarity pruning hash_pruning selection picture page prefetch stored_matrix parts request choice "
    "reduction data phantom backbone checkpoint pretrain auto_threshold finetune leaks report analyse compare "
    "evaluate plan verbs demo info doctor command cli"
).split()


def stage(module: str) -> str:
    return module.removeprefix("lim_gpu.").split(".")[0]


def imported(path: Path) -> set[str]:
    """Stages that a file imports, inside functions too; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lim_gpu."):
            found.add(stage(str(node.module)))
        elif isinstance(node, ast.Import):
            found |= {stage(name.name) for name in node.names if name.name.startswith("lim_gpu.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_the_left(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in the order"
    to_the_right = {other for other in imported(path) if ORDER.index(other) > ORDER.index(own)}
    assert not to_the_right


LIGHT = (
    "import lim_gpu",
    "from lim_gpu.cli import cli; cli.main(['--help'], standalone_mode=False)",
    "from lim_gpu.cli import cli; cli.main(['reduce', '--help'], standalone_mode=False)",
    "import lim_gpu.store, lim_gpu.ingest, lim_gpu.selection, lim_gpu.info, lim_gpu.verbs, lim_gpu.reduction",
)


@pytest.mark.parametrize("program", LIGHT)
def test_light_commands_load_neither_torch_nor_numba(program):
    heavy = {"torch", "numba", "cupy", "matplotlib", "sklearn", "lightning"}
    check = f"import sys; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", f"{program}\n{check}"], check=True, stdout=subprocess.DEVNULL)


def test_the_public_names_exist_and_are_few():
    assert len(lim_gpu.__all__) <= 10
    for name in lim_gpu.__all__:
        assert callable(getattr(lim_gpu, name)), name
    with pytest.raises(AttributeError):
        lim_gpu.nothing  # noqa: B018
