"""RESULTS.md out of the parts: tables and plots, nothing measured here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench import inputs, plots
from bench.goals import GOALS
from bench.parts import Part, Row
from bench.results import Results
from bench.text import amount, error, gibibytes, number, percent, table, time, times
from lim_gpu.files import write_text

FOLDER = Path(__file__).parent
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NEEDS_GPU = "Not measured: it needs a GPU (`make bench-gpu`)."
PREDICTED = {  # of what RESULTS.md calls a unit
    "ssim_pairs": "35 fp32 (product 1, two passes 22, formula 12)",
    **dict.fromkeys(
        ("ssim_pairs_tensor_4x16", "ssim_pairs_tensor_8x24"),
        "13 fp32: both passes on the tensor cores (one is, see ssim.cu)",
    ),
    **dict.fromkeys(("mi_pairs_plain", "mi_pairs_every"), "1 shared increment"),
    "mi_pairs": "1 shared increment, fewer where both slices have their fullest bin",
    **dict.fromkeys(("hash_distances", "hash_similarities", "hash_nearest", "hash_drop"), "2 XOR, 2 popcounts of 32"),
}
HEADER = """\
# Results of the benchmark

`make bench` and `make bench-gpu` write this file. Every result is checked before it is timed. A time is the median of
several runs after a warm-up, ± half the distance of the quartiles; on a GPU between two events, with the L2 cache
emptied before, and of many calls in a row where one takes less than 1 ms. Peers get the same slices of 512 x 512 on the
same device in the same run; on the CPU one thread each.
"""
PAPER = """\
The paper (Wolf et al. 2024, section 3.2) took 53 h (LIDC) and 421 h (PET-CT) for SSIM, 48 h and 312 h for MI, 2 h and
6 h for DeepNet on an NVIDIA GeForce RTX 3090, and less than 30 minutes for HASH on an AMD Ryzen 9 5900X, to reduce the
whole data set. Here: the matrices alone, of 1,010 and 900 volumes of 244,527 and 541,439 slices of 512 x 512 in all,
made on the device; on the CPU by all its cores. How the slices are spread over the volumes is drawn with a fixed seed
and is our assumption. Where not all volumes were run, the whole is extrapolated by pairs (HASH, DeepNet: by slices).
"""


def write(parts: list[Part], folder: Path = FOLDER) -> list[str]:
    """Write RESULTS.md and its plots; returns the lines.

    Where the one that stands tells of more parts, such as those of a GPU that are not here, it stays, and the new one
    goes among the parts.
    """
    results = Results(parts)
    place = folder if _told(folder / "RESULTS.md") <= sum(bool(part.rows) for part in parts) else folder / "parts"
    place.mkdir(exist_ok=True)
    (folder / "parts" / "RESULTS.md").unlink(missing_ok=True)
    drawn = plots.draw(results, place)
    lines = [*HEADER.splitlines(), ""]
    for title, section in SECTIONS:
        lines += [f"## {title}", "", *section(results), ""]
        lines += [line for name in drawn.get(title, ()) for line in (f"![{title}]({name})", "")]
    write_text(place / "RESULTS.md", "\n".join(lines).rstrip() + "\n")
    return lines if place == folder else [*lines, f"-> {place / 'RESULTS.md'}: the one that stands tells of more"]


def _told(standing: Path) -> int:
    """Of how many parts a RESULTS.md tells."""
    text = standing.read_text() if standing.exists() else ""
    return sum(int(count) for count in re.findall(r"^- parts: (\d+) ", text, re.MULTILINE))


# ---------------------------------------------------------------------------------------------- sections


def _where(results: Results) -> list[str]:
    lines = []
    for key in dict.fromkeys(part.key for part in results.parts if part.rows):
        parts = [part for part in results.parts if part.key == key]
        for name in parts[0].environment:
            lines.append(f"- {name}: {'; '.join(dict.fromkeys(part.environment[name] for part in parts))}")
        lines += [f"- parts: {len(parts)} ({parts[0].name} to {parts[-1].name})", ""]
    return lines or ["Nothing was measured yet."]


def _goals(results: Results) -> list[str]:
    body = []
    for goal in GOALS:
        value = goal.measure(results)
        measured = ["not measured", ""] if value is None else [goal.show(value), "yes" if goal.met(value) else "**no**"]
        body.append([goal.title, *measured])
    return table(["goal", "measured", "met"], body)


def _peers(results: Results) -> list[str]:
    lines = []
    for job in dict.fromkeys(row.job for row in results.rows("peers")):
        rows = sorted(results.rows("peers", job), key=lambda row: (row.device, row.ours, -row.each))
        body = [
            [row.peer, DEVICES[row.device], number(row.n), *_times(row), error(row.error), _comparison(results, row)]
            for row in rows
        ]
        heads = ["", "on", "n", f"a {rows[0].unit}", "rate", "error", "lim_gpu is"]
        lines += [f"### {job}", "", *table(heads, body), ""]
    return lines or ["Not measured."]


def _comparison(results: Results, row: Row) -> str:
    ours = results.ours(row.job, row.device)
    if ours is None or row is ours:
        return ""
    if not row.ours:
        return f"**{times(row.each / ours.each)}** as fast"
    return f"({times(ours.each / row.each)} as fast as {ours.peer})"


def _ceilings(results: Results) -> list[str]:
    body = [[row.peer, *_times(row)[1:], percent(row.spread)] for row in results.rows("ceilings")]
    return table(["resource", "a second", "±"], body) if body else [NEEDS_GPU]


def _kernels(results: Results) -> list[str]:
    body = []
    for row in sorted(results.rows("kernels"), key=lambda row: (row.job, -row.each)):
        limit = results.limit(row)
        gigabytes = f"{row.work['bytes'] / row.each / 1e9:.3g}" if "bytes" in row.work else ""
        share = [f"{limit[0]:.1%}", limit[1]] if limit else ["", ""]
        body.append([f"`{row.peer}`", number(row.n), row.unit, *_times(row), gigabytes, *share, error(row.error)])
    heads = ["version", "n", "of a", "time", "rate", "GB/s", "share", "of the limit by", "error"]
    return table(heads, body) if body else [NEEDS_GPU]


def _growth(results: Results) -> list[str]:
    body = [
        [row.job, DEVICES[row.device], number(row.n), time(row.each * row.count), time(row.each), gibibytes(row.memory)]
        for row in sorted(results.rows("growth"), key=lambda row: (row.device, row.job, row.n))
    ]
    return table(["", "on", "n", "all pairs", "a pair", "GPU memory"], body) if body else ["Not measured."]


def _datasets(results: Results) -> list[str]:
    lines = [*PAPER.splitlines(), ""]
    body = []
    for row in results.rows("datasets"):
        data_set = next(each for each in (inputs.LIDC, inputs.PET_CT) if each.name == row.job)
        assert row.total
        whole = "measured" if row.count == row.total else f"extrapolated from {row.n} of {data_set.volumes:,} volumes"
        hours = data_set.hours.get(row.peer)
        paper = f"{hours} h" if hours else "< 0.5 h"
        body.append([row.job, row.peer, DEVICES[row.device], time(row.each * row.total), whole, paper])
    return lines + (
        table(["data set", "method", "on", "all matrices", "", "paper"], body) if body else ["Not measured."]
    )


def _reduce(results: Results) -> list[str]:
    body = [
        [row.job, DEVICES[row.device], row.peer, time(row.each * row.count), percent(row.spread), time(row.each)]
        for row in results.rows("pipeline")
    ]
    return table(["", "on", "", "whole", "±", "a slice"], body) if body else ["Not measured."]


def _instructions(results: Results) -> list[str]:
    """Two tables: every kernel, and the inner loops that sass.py counts."""
    rows = results.rows("instructions")
    if not rows:
        return ["Not counted."]
    architectures = sorted({row.device for row in rows}, key=lambda name: int(name.removeprefix("sm_")))
    by_kernel = {(row.peer, row.device): row.work for row in rows}
    registers = [
        [f"`{name}`", *(_registers(by_kernel.get((name, architecture))) for architecture in architectures)]
        for name in dict.fromkeys(row.peer for row in rows)
    ]
    counted = [row for row in rows if "all" in row.work]
    classes = ["all", *sorted({name for row in counted for name in row.work} - {"registers", "spilled", "all"})]
    body = [
        [f"`{row.peer}`", row.device, *(f"{row.work.get(name, 0):.1f}" for name in classes), PREDICTED[row.peer]]
        for row in counted
    ]
    return [
        "Instructions of the inner loop for a pixel of a pair (HASH: for a distance), counted in the SASS by "
        "`bench/sass.py`:", "",
        *table(["kernel", "on", *classes, "predicted"], body), "",
        "Registers of a thread, and bytes stored and loaded where they do not suffice:", "",
        *table(["kernel", *architectures], registers),
    ]  # fmt: skip


def _registers(work: dict[str, float] | None) -> str:
    if work is None:
        return ""
    return f"{work['registers']:.0f}" + (f" **({work['spilled']:.0f} bytes spilled)**" if work["spilled"] else "")


def _missing(results: Results) -> list[str]:
    """Reasons, and how many parts of each file they stop."""
    reasons: dict[str, Counter[str]] = {}
    for part in results.parts:
        if part.skipped:
            reasons.setdefault(part.skipped, Counter())[part.name.split("-")[0]] += 1
    return [
        f"- {reason}: {', '.join(f'{count} of {file}' for file, count in files.items())}"
        for reason, files in reasons.items()
    ] or ["Nothing is missing."]


SECTIONS: tuple[tuple[str, Callable[[Results], list[str]]], ...] = (
    ("Where", _where),
    ("Goals", _goals),
    ("Peers", _peers),
    ("Ceilings of this GPU", _ceilings),
    ("Kernels", _kernels),
    ("Growth", _growth),
    ("Data sets", _datasets),
    ("Reduce, end to end", _reduce),
    ("Instructions", _instructions),
    ("Not measured", _missing),
)


def _times(row: Row) -> list[str]:
    return [f"{time(row.each)} ± {percent(row.spread)}", f"{amount(1 / row.each)}/s"]
