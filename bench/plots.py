"""The plots of RESULTS.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import Results
from bench.text import times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2f6db3", "#d9772b", "#3c9358", "#7d5ba6", "#b8444f", "#8a8f98"
COLOURS = {"SSIM": BLUE, "MI": ORANGE, "HASH": GREEN, "DeepNet": PURPLE, "Pre-training": RED}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def draw(results: Results, folder: Path) -> dict[str, list[str]]:
    """Write what there are rows for; returns section -> names of pictures."""
    from matplotlib import rc_context

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 160}
    drawn = {}
    with rc_context(style):
        for section, name, plot in (("Peers", "peers.png", _peers), ("Kernels", "share.png", _share),
                                    ("Growth", "growth.png", _growth)):  # fmt: skip
            figure = plot(results)
            if figure is not None:
                figure.savefig(folder / name, bbox_inches="tight", metadata={"Software": None})
                drawn[section] = [name]
    return drawn


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", weight="bold")


def _colour(job: str) -> str:
    return COLOURS.get(job.split(",")[0].split()[0], GREY)


def _rank(job: str) -> int:
    methods = list(COLOURS)
    method = job.split(",")[0].split()[0]
    return methods.index(method) if method in methods else len(methods)


def _peers(results: Results) -> Figure | None:
    """How many times faster lim_gpu is, a bar each peer."""
    bars = []
    for row in results.rows("peers"):
        ours = results.ours(row.job, row.device)
        if ours and not row.ours and "alone" not in row.peer:
            bars.append((row.device, row.job, row.each / ours.each, row.peer))
    if not bars:
        return None
    bars.sort(key=lambda bar: (bar[0] == "cpu", _rank(bar[1]), bar[1], -bar[2]))
    ratios, colours = [bar[2] for bar in bars], [_colour(bar[1]) for bar in bars]
    figure, axes = _figure(7.6, 0.9 + 0.22 * len(bars))
    axes.barh(range(len(bars)), [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
    axes.set_yticks(range(len(bars)), [f"{job}, {DEVICES[device]}: {peer}" for device, job, _, peer in bars])
    for k, ratio in enumerate(ratios):
        axes.annotate(times(ratio), (max(ratio, 1), k), (4, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}x")
    axes.minorticks_off()
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xlim(min(0.5, *(ratio / 1.3 for ratio in ratios)), 3 * max(ratios))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    _title(figure, "How many times as fast lim_gpu is, on the same slices and device")
    axes.tick_params(axis="y", length=0)
    return figure


def _share(results: Results) -> Figure | None:
    """The share of the measured limit, a bar each kernel."""
    rows = sorted(results.rows("kernels"), key=lambda row: (row.job, -row.each))
    bars = [(row.peer, *limit) for row in rows if (limit := results.limit(row))][::-1]
    if not bars:
        return None
    figure, axes = _figure(7.2, 0.9 + 0.26 * len(bars))
    axes.barh(range(len(bars)), [100 * share for _, share, _ in bars], color=BLUE, height=0.7)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    for k, (_, share, resource) in enumerate(bars):
        axes.annotate(
            f"{share:.1%} of {resource}", (100 * share, k), (5, 0), textcoords="offset points", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.axvline(100, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xlim(0, 1.45 * max(100, *(100 * share for _, share, _ in bars)))
    _title(figure, "Share of the limit measured on this GPU, %")
    axes.tick_params(axis="y", length=0)
    return figure


def _growth(results: Results) -> Figure | None:
    """Seconds against n; the dotted line grows as pairs do."""
    rows = results.rows("growth")
    if not rows:
        return None
    figure, axes = _figure(6.4, 4.2)
    for device, style in (("cuda", "-"), ("cpu", "--")):
        for job in dict.fromkeys(row.job for row in rows):
            line = sorted((row.n, row.each * row.count) for row in rows if (row.device, row.job) == (device, job))
            if line:
                n, seconds = zip(*line, strict=True)
                axes.plot(n, seconds, style, marker="o", markersize=3.5, color=_colour(job))
                axes.annotate(f"{job}, {DEVICES[device]}", line[-1], (6, 0), textcoords="offset points", va="center",
                              color=_colour(job))  # fmt: skip
                if job == "HASH":  # each slice costs, not each pair
                    continue
                guide = [seconds[-1] * k * (k - 1) / (n[-1] * (n[-1] - 1)) for k in n]
                axes.plot(n, guide, ":", color=GREY, linewidth=0.9, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="slices of 512 x 512", ylabel="seconds for all pairs")
    ticks = sorted({row.n for row in rows})
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] * 0.85, ticks[-1] * 2.2)
    _title(figure, "Time against slices; dotted: as pairs grow")
    return figure
