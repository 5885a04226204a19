"""The direction of the data: a module imports only from the floors below its own; the light ones load nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import lim_gpu

PACKAGE = Path(lim_gpu.__file__).parent
FLOORS = (  # from the top of the house to its ground; rooms of one floor do not know each other
    "cli",
    "evaluate",
    "analyse",
    "pretrain finetune inference",
    "leaks labels",
    "report",
    "ingest reduction dataset",
    "selection",
    "store pruning network",
    "labelled similarity phantom",
    "intensity cluster weights",
    "sharing outputs",
    "files workers augment cuda pictures shard",
    "errors progress compiled spread natural strip temporary",
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lim_gpu":
            yield from (f"lim_gpu.{name.name}" for name in node.names if name.name in FLOOR_OF)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lim_gpu."):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("lim_gpu."))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = room(path)
    assert own in FLOOR_OF, f"{own} stands on no floor"
    others = {module.split(".")[1] for module in imported(path)} - {own}
    upwards = {other for other in others if FLOOR_OF[other] <= FLOOR_OF[own]}
    assert not upwards


@pytest.mark.parametrize("folder", [path.name for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").exists()])
def test_no_circle_within_a_folder(folder):
    """Imports inside functions and for type checkers included, but for those of TYPED_BY."""
    files = {f"lim_gpu.{folder}.{path.stem}": path for path in (PACKAGE / folder).rglob("*.py")}
    graph = {name: {other for other in within(path) if other in files} - {name} for name, path in files.items()}
    for user, used in TYPED_BY & {(user, used) for user, others in graph.items() for used in others}:
        assert used not in at_run_time(files[user])
        graph[user].remove(used)
    while graph:
        leaves = {name for name, others in graph.items() if not others}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: others - leaves for name, others in graph.items() if name not in leaves}


# a configuration is checked as it is made: the checks are below it, and typed by it
TYPED_BY = {("lim_gpu.pretrain.checks", "lim_gpu.pretrain.config")}


def within(path: Path) -> Iterator[str]:
    yield from _imported(ast.walk(ast.parse(path.read_text())))


def at_run_time(path: Path) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    typing = [node for node in nodes if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    left_out = {id(inner) for node in typing for inner in ast.walk(node)}
    yield from _imported(node for node in nodes if id(node) not in left_out)


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lim_gpu."):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


LIGHT = (
    "import lim_gpu",
    "import numpy; from lim_gpu.intensity import Intensity; Intensity().to_uint8(numpy.zeros((1, 9, 9), numpy.int16))",
    "from lim_gpu.cli import cli; cli.main(['--help'], standalone_mode=False)",
    "from lim_gpu.cli import cli; cli.main(['reduce', '--help'], standalone_mode=False)",
    "import lim_gpu.store.slices, lim_gpu.ingest, lim_gpu.selection, lim_gpu.cli.info, lim_gpu.reduction.run",
    "import lim_gpu.reduction.verb, lim_gpu.reduction.matrix_verb",
)


@pytest.mark.parametrize("program", LIGHT)
def test_light_commands_load_nothing_heavy(program):
    heavy = {"torch", "numba", "cupy", "matplotlib", "pydicom", "nibabel", "sklearn", "lightning", "ray"}
    check = f"import sys; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", f"{program}\n{check}"], check=True, stdout=subprocess.DEVNULL)


def test_ingest_starts_its_children_before_it_imports_what_they_do():
    """They import it at the same time: a quarter of a second of each ingest."""
    program = """
import sys, lim_gpu.workers
def started(): assert not {"numpy", "h5py", "lim_gpu.ingest"} & set(sys.modules); raise SystemExit(7)
lim_gpu.workers.start_server = started
from lim_gpu.cli import cli
cli.main(["ingest", "source", "-o", "store"], standalone_mode=False)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 7


def test_one_module_alone_knows_ray():
    knowing = [path.name for path in MODULES if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)]
    assert knowing == ["cluster.py"]


def test_the_public_names_exist_and_are_few():
    assert len(lim_gpu.__all__) <= 10
    for name in lim_gpu.__all__:
        assert callable(getattr(lim_gpu, name)), name
    with pytest.raises(AttributeError):
        lim_gpu.nothing  # noqa: B018


def test_no_module_hides_a_public_name():
    """Importing lim_gpu.NAME as a module would put it in the place of the function of that name."""
    assert not {path.stem for path in PACKAGE.iterdir()} & set(lim_gpu.__all__)


def test_every_folder_is_packaged():
    folders = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {"lim_gpu.kernels"}


MODULES_OF = {"grad-cam": "pytorch_grad_cam", "pillow": "PIL", "scikit-learn": "sklearn"}  # else under their own names
USED_BY_OTHERS = {"pyjpegls", "pylibjpeg", "pylibjpeg_openjpeg", "tensorboard"}  # by pydicom; by Lightning


def test_the_base_imports_what_it_installs():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", dependency)[0] for dependency in project["dependencies"]]
    installed = {MODULES_OF.get(name, name.replace("-", "_")) for name in names}
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    used = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
    extras = {"cupy", "monai", "pyarrow", "ray", "wandb"}
    assert installed == used - {"lim_gpu"} - extras | USED_BY_OTHERS


def test_hooks_and_checks_use_the_same_versions():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    pinned = {tool for tool in project["project"]["optional-dependencies"]["check"] if "==" in tool}
    hooks = (PACKAGE.parent / ".pre-commit-config.yaml").read_text()
    assert {tool for tool in re.findall(r'"(\S+==\S+)"', hooks)} == {t for t in pinned if not t.startswith("mypy")}


def test_the_picture_in_contributing_is_this_house():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert "\n".join(f"    {'  '.join(rooms.split())}" for rooms in FLOORS) in text


def test_where_a_method_lives_is_where_contributing_says():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text().split("## Where a method lives")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7
    places = (PACKAGE, PACKAGE.parent / "kernels", PACKAGE, PACKAGE.parent / "tests")
    for name, *cells in rows:
        for place, cell in zip(places, cells, strict=True):
            for path in re.findall(r"`(\S+)`", cell):
                assert (place / path).is_file(), f"{name}: {path}"
