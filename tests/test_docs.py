"""What the pages say exists: links, commands with their options, and what Python blocks import. And the site builds."""

from __future__ import annotations

import ast
import html
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import click
import pytest

from lim_gpu.cli.program import cli
from stores import make_store

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!`)\[(?:[^\]]|\][^(])*?\]\(([^)\s]+)\)")
INSTALLERS = ("pip", "make", "python", "torchrun")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load(DOCS / "hooks.py")
GENERATED = HOOKS.generated_pages()
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")} | GENERATED
READ_ON_GITHUB = ("README.md", "CONTRIBUTING.md")
TEXTS = PAGES | {name: (ROOT / name).read_text() for name in READ_ON_GITHUB}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block; an included file is filled in."""
    found = []
    for page, text in TEXTS.items():
        for kind, body in FENCE.findall(text):
            if kind == language:
                include = re.fullmatch(r'\s*--8<-- "(.*)"\s*', body)
                assert include or "examples/" not in body, f"{page}: {body}"
                found.append((page, (ROOT / include[1]).read_text() if include else body))
    return found


def commands() -> list[tuple[str, str]]:
    """(page, line) of every call of lim-gpu: in shell blocks, in README's indented blocks, and in the verbs' help."""
    lines = [(page, line) for page, body in blocks("shell") for line in body.replace("\\\n", " ").splitlines()]
    scripts = [(page, line) for page, body in blocks("bash") for line in body.splitlines()]  # of which others are most
    lines += [(page, line) for page, line in scripts if line.startswith("lim-gpu ")]
    lines += [(page, line[4:]) for page in READ_ON_GITHUB for line in indented(TEXTS[page])]
    for name, command in cli.commands.items():
        examples = re.findall(r"(?m)^\s*(?:Examples?: )?(lim-gpu .*)$", command.help or "")
        lines += [(f"--help of {name}", line) for line in examples]
    return [(page, line.strip()) for page, line in lines if line.strip()]


def indented(text: str) -> list[str]:
    outside = FENCE.sub("", text)
    return [line for line in outside.splitlines() if re.match(r"    (lim-gpu|make) ", line)]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", FENCE.sub("", text))
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def leads_somewhere(page: str, target: str) -> bool:
    name, _, anchor = target.partition("#")
    place = (DOCS / (".." if page in READ_ON_GITHUB else Path(page).parent) / name).resolve()
    known = place.relative_to(DOCS).as_posix() if place.is_relative_to(DOCS) else ""
    if anchor:
        return anchor in anchors(PAGES[known] if name else TEXTS[page])
    return place.exists() or known in PAGES or known in {picture.name for picture in HOOKS.pictures_of_results()}


def test_links_lead_to_pages_and_files():
    links = [(page, target) for page, text in TEXTS.items() for target in LINK.findall(FENCE.sub("", text))]
    inside = [(page, target) for page, target in links if not re.match(r"https?://", target)]
    assert [link for link in inside if not leads_somewhere(*link)] == []


def test_the_pages_have_links_and_commands_to_check():
    assert len(commands()) > 30
    assert sum(len(LINK.findall(text)) for text in TEXTS.values()) > 30
    assert len(blocks("python")) >= 5


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_has_a_verb_and_options_that_exist(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # --config reads a file
    (tmp_path / "run.toml").write_text("")
    words = shlex.split(line, comments=True)
    if words[0] != "lim-gpu":
        assert words[0] in INSTALLERS, f"{page}: {line}"
        if words[0] == "make":
            assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text()), f"{page}: {line}"
        return
    if len(words) == 1 or words[1] in ("--help", "--version", "VERB"):
        return
    assert words[1] in cli.commands, f"{page}: {line}"
    try:
        cli.commands[words[1]].make_context(words[1], words[2:])
    except click.exceptions.Exit:  # --help
        pass
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}: {error.format_message()}")


@pytest.mark.parametrize(("page", "body"), blocks("python"))
def test_a_python_block_compiles_and_names_what_exists(page, body):
    tree = ast.parse(body)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lim_gpu":
            module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{page}: {node.module} has no {missing}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lim_gpu":
            assert hasattr(importlib.import_module("lim_gpu"), node.attr), f"{page}: lim_gpu.{node.attr}"


@pytest.fixture(scope="module")
def as_the_pages_assume(tmp_path_factory) -> Path:
    """A folder with the store `slices` that the pages' first commands make."""
    folder = tmp_path_factory.mktemp("pages")
    make_store(folder, (("chest", 12, 32, 32), ("head", 5, 32, 32)))
    return folder


@pytest.mark.parametrize(
    ("page", "body"), [(page, body) for page, body in blocks("python") if page not in ("examples.md", "python.md")]
)
def test_a_python_block_runs_as_it_stands(page, body, as_the_pages_assume):
    """Those of examples.md are run as the files that they are, those of python.md are docstrings' sketches."""
    done = subprocess.run(
        [sys.executable, "-c", body], cwd=as_the_pages_assume, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{page}: {done.stderr}"


def test_every_verb_and_option_has_its_place():
    for name, command in cli.commands.items():
        text = GENERATED[f"verbs/{name}.md"]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option in text for option in parameter.opts), f"{name} {parameter.opts}"


def test_every_public_name_is_documented():
    import lim_gpu

    assert all(f"## `lim_gpu.{name}`" in GENERATED["python.md"] for name in lim_gpu.__all__)


def test_a_docstring_becomes_text_and_tables():
    text = "What it is: a * b.\n\nname  the first,\n      goes on\nother  x|y\n\n    code(1)\n"
    assert HOOKS.docstring(text.rstrip("\n")) == [
        "What it is: a \\* b.", "", "| | |", "|---|---|", "| `name` | the first, goes on |", "| `other` | x\\|y |", "",
        "```text", "code(1)", "```", "",
    ]  # fmt: skip


def test_the_pictures_are_those_that_the_script_draws():
    drawn = {f"{name}.png" for name in load(DOCS / "pictures.py").PICTURES}
    assert {path.name for path in (DOCS / "pictures").iterdir()} == drawn
    assert all(f"pictures/{name}" in PAGES["concepts.md"] for name in drawn)


def test_no_page_names_a_place_of_its_writer():
    assert not [page for page, text in TEXTS.items() if re.search(r"(?<![\w.])/(work|home|root|tmp)/", text)]


class Resources(HTMLParser):
    """What a browser loads by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        loads = [values.get("src"), values.get("srcset"), values.get("poster"), values.get("data")]
        if tag == "link" and values.get("rel") not in ("canonical", "alternate", "next", "prev"):
            loads.append(values.get("href"))
        self.found += [value for value in loads if value]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install '.[docs]'")
    target = tmp_path_factory.mktemp("site")
    call = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(target),
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_site_builds_with_a_page_for_each(site):
    assert {page.removesuffix(".md") + ".html" for page in PAGES} <= {
        path.relative_to(site).as_posix() for path in site.rglob("*.html")
    }
    assert not list(site.rglob("*.py"))


def test_a_page_shows_the_code_that_it_includes(site):
    page = html.unescape(re.sub(r"<[^>]*>", "", (site / "examples.html").read_text()))
    examples = sorted({ROOT / name for name in re.findall(r'--8<-- "(.*)"', PAGES["examples.md"])})
    assert len(examples) == 3
    for example in examples:
        for line in example.read_text().splitlines():
            assert line.strip() in page, f"{example.name}: {line}"
    assert not [path.name for path in site.rglob("*.html") if "--8" in path.read_text()]


def test_a_page_loads_nothing_from_the_network(site):
    loaded = []
    for path in site.rglob("*.html"):
        parser = Resources()
        parser.feed(path.read_text())
        loaded += [(path.name, url) for url in parser.found]
    for path in site.rglob("*.css"):
        loaded += [(path.name, url) for url in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", path.read_text())]
    assert loaded
    assert [(name, url) for name, url in loaded if re.match(r"(https?:)?//", url)] == []
    assert (site / "assets/iframe-worker.js").is_file()  # in place of one that would come from the network


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_pages_opened_from_a_folder_can_be_searched_and_ask_for_nothing_outside(site):
    playwright = pytest.importorskip("playwright.sync_api")
    outside, errors = [], []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("threshold")
        page.wait_for_selector(".md-search-result__item")
        browser.close()
    assert outside == []
    assert errors == []


def test_every_line_of_parity_names_a_test_that_is_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (DOCS / "parity.md").read_text())
    assert len(named) > 20
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
