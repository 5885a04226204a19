"""Pages that MkDocs makes when it builds: a page a verb out of click, the Python interface out of its docstrings, and
the numbers out of bench/RESULTS.md. What is generated cannot differ from the program.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "RESULTS.md"
SITE = {"../bench/RESULTS.md": "numbers.md", "../examples/interface.py": "python.md"}  # what is read there instead
OPEN_TERM = re.compile(r"(\S.*?)\s{2,}(\S.*)")  # "name    what it is", as docstrings list parameters


def on_config(config: Any) -> Any:
    """Put the generated pages of the verbs into the navigation."""
    verbs = next(section for section in config.nav if "Verbs" in section)
    verbs["Verbs"] = ["verbs/index.md", *(page for page in verb_pages() if page != "verbs/index.md")]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the pictures that the results show."""
    from mkdocs.structure.files import File

    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    for picture in pictures_of_results():
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_of_the_page: Any) -> str:
    """Lead from files of the repository, to which its pages link, to the pages that the site has of them."""
    for file, page in SITE.items():
        markdown = markdown.replace(f"]({file})", f"]({page})")
    return markdown


def generated_pages() -> dict[str, str]:
    """Markdown of every generated page by its path below docs/."""
    return verb_pages() | {"python.md": python_page(), "numbers.md": numbers_page()}


def verb_pages() -> dict[str, str]:
    """A page a verb, and one that lists them."""
    import click

    from lim_gpu.cli.program import cli

    lines = ["# The verbs", "", "One program, one verb a stage: `lim-gpu VERB --help` prints what stands here.", ""]
    lines += ["| verb | what it does |", "|---|---|"]
    pages = {}
    for name in cli.list_commands(click.Context(cli)):
        command = cli.commands[name]
        lines.append(f"| [`{name}`]({name}.md) | {cell(command.get_short_help_str(200))} |")
        pages[f"verbs/{name}.md"] = _verb_page(name, command)
    lines += ["", "Exit codes: 0 done, 2 usage, 3 bad input, 4 no usable GPU though one was asked for, 5 finished but"]
    lines += [
        "some items were skipped and listed (`leaks`: something was found), 130 or 143 interrupted and resumable."
    ]
    return {"verbs/index.md": "\n".join(lines) + "\n"} | pages


def _verb_page(name: str, command: Any) -> str:
    import click

    context = click.Context(command, info_name=f"lim-gpu {name}", max_content_width=100)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"# {name}", "", *_help_text(inspect.cleandoc(command.help or "")), ""]
    lines += ["```text", f"lim-gpu {name} {usage}", "```", "", "| option | meaning |", "|---|---|"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            lines.append(f"| `{record[0]}` | {cell(record[1])} |")
    return "\n".join(lines) + "\n"


def _help_text(text: str) -> list[str]:
    r"""click's help as Markdown: paragraphs, and what follows its mark \b as it stands."""
    lines = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            lines += ["```text", *paragraph.removeprefix("\b\n").split("\n"), "```", ""]
        else:
            lines += [escape(paragraph), ""]
    return lines


def python_page() -> str:
    """The public names and what is needed beside them, from signatures and docstrings."""
    import lim_gpu
    from lim_gpu.ingest import IngestReport, ingest
    from lim_gpu.intensity import Intensity
    from lim_gpu.phantom import phantom, write_data_set
    from lim_gpu.store.volume import Volume, VolumeEntry

    order = "similarity_matrix rank Ranking prune SliceStore reduce Selection SliceDataset LimGpuError".split()
    lines = ["# In Python", "", "`import lim_gpu` is quick and needs neither torch nor a GPU: names load on first use."]
    lines += ["", "```python", (ROOT / "examples" / "interface.py").read_text().rstrip(), "```", ""]
    for name in sorted(lim_gpu.__all__, key=order.index):
        lines += _documented(f"lim_gpu.{name}", getattr(lim_gpu, name))
    lines += ["## Beside them", "", "What the names above take and give.", ""]
    for thing in (ingest, IngestReport, Intensity, Volume, VolumeEntry, phantom, write_data_set):
        lines += _documented(f"{thing.__module__}.{thing.__name__}", thing)
    return "\n".join(lines) + "\n"


def _documented(name: str, thing: Any) -> list[str]:
    lines = [f"## `{name}`", "", *_signature(name.rpartition(".")[2], thing), *docstring(inspect.getdoc(thing) or "")]
    if not inspect.isclass(thing):
        return lines
    for member, value in vars(thing).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if member.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        lines += [f"### `{member}`", ""]
        lines += [] if isinstance(value, property) else _signature(member, function)
        lines += docstring(inspect.getdoc(function) or "")
    return lines


class _Bare:
    """Shown by inspect as it is, without the quotes of an annotation that is text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(name: str, thing: Any) -> list[str]:
    """A block with the call, a parameter a line where it is long."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return []
    signature = inspect.signature(thing)
    bare = [
        parameter.replace(annotation=_Bare(parameter.annotation))
        if isinstance(parameter.annotation, str)
        else parameter
        for parameter in signature.parameters.values()
    ]
    texts = [str(parameter) for parameter in bare]
    if star := [place for place, one in enumerate(bare) if one.kind is one.KEYWORD_ONLY]:
        texts.insert(star[0], "*")
    result = signature.return_annotation
    returns = f" -> {result}" if isinstance(result, str) and not inspect.isclass(thing) else ""
    text = f"{name}({', '.join(texts)}){returns}"
    if len(text) > 90:
        text = "\n".join([f"{name}(", *(f"    {one}," for one in texts), f"){returns}"])
    return ["```text", text, "```", ""]


def docstring(text: str) -> list[str]:
    """A docstring as Markdown: its lists of "name    meaning" become tables, indented text stays as it is."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        rows = paragraph.split("\n")
        if all(row.startswith("    ") for row in rows):
            lines += ["```text", *(row[4:] for row in rows), "```", ""]
        elif OPEN_TERM.fullmatch(rows[0]):
            lines += ["| | |", "|---|---|"]
            for row in rows:
                term = OPEN_TERM.fullmatch(row) if not row.startswith(" ") else None
                if term:
                    lines.append(f"| `{term[1]}` | {cell(term[2])} |")
                else:
                    lines[-1] = f"{lines[-1].removesuffix(' |')} {cell(row.strip())} |"
            lines.append("")
        else:
            lines += [escape(paragraph), ""]
    return lines


def numbers_page() -> str:
    """bench/RESULTS.md under a heading of ours; where it is not there, how to make it."""
    lines = ["# Numbers", "", "All that was measured of speed. `make bench` (CPU) and `make bench-gpu` (GPU)"]
    lines += ["check every result against its reference before they time it, and write `bench/RESULTS.md`.", ""]
    if not RESULTS.is_file():
        return "\n".join([*lines, "**Not measured**: `bench/RESULTS.md` is not in this checkout.", ""])
    return "\n".join([*lines, re.sub(r"(?m)^#", "##", RESULTS.read_text())])


def pictures_of_results() -> list[Path]:
    """The pictures that bench/RESULTS.md shows."""
    text = RESULTS.read_text() if RESULTS.is_file() else ""
    return [RESULTS.parent / name for name in re.findall(r"!\[[^\]]*\]\(([\w.-]+)\)", text)]


def escape(text: str) -> str:
    """Text as Markdown shows it unchanged: outside of `code` no HTML, no emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_\[])", r"\\\1", part).replace("<", "&lt;") for part in parts
    )


def cell(text: str) -> str:
    """Text for a table cell."""
    parts = re.split(r"(`[^`]*`)", escape(text))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)
