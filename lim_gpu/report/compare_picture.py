"""The comparison of selections as a picture: what two share, and for each metric who keeps and covers best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lim_gpu.reduction.request import HASH_BITS, SCALES
from lim_gpu.report.compared import Compared, overlap
from lim_gpu.report.figures import INK

SELECTION, BASELINE = "o", "s"
MARKERS = {SELECTION: "circle: a selection", BASELINE: "square: every-n or random with as many slices"}


def comparison_picture(compared: Sequence[Compared], metrics: Sequence[str]) -> Any:
    """Overlap on the left; for each metric the kept pairs' mean against the coverage of every selection."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = matplotlib.colormaps["tab20" if len(compared) > 10 else "tab10"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(4.6 * (1 + len(metrics)), 4.6 + 0.2 * len(compared)), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(metrics))
    _draw_overlap(first, compared)
    for axes, metric in zip(others, metrics, strict=True):
        _draw_metric(axes, compared, metric, colours)
    drawn = dict(zip(*reversed(others[0].get_legend_handles_labels()), strict=True))
    drawn |= {text: _grey(marker) for marker, text in MARKERS.items()}
    figure.legend(drawn.values(), drawn, loc="outside lower right", ncols=3, frameon=False)
    return figure


def _grey(marker: str) -> Any:
    """What stands in the legend for a marker of any colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, marker=marker, markersize=9, linestyle="none")


def _draw_overlap(axes: Any, compared: Sequence[Compared]) -> None:
    shares = np.array([[overlap(a.kept, b.kept) for b in compared] for a in compared])
    names = [one.name for one in compared]
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else "black")
    axes.set(title="kept slices shared, %", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(names, rotation=40, ha="right")
    axes.set_yticklabels(names)


def _draw_metric(axes: Any, compared: Sequence[Compared], metric: str, colours: Sequence[Any]) -> None:
    """A point a selection, the best up on the left: of HASH, in bits, both axes run backwards."""
    bits = metric == "hash"
    for place, one in enumerate(compared):
        if metric in one.mean and metric in one.coverage:
            at = np.array([np.mean(one.mean[metric]), np.mean(one.coverage[metric])])
            marker = BASELINE if one.seconds is None else SELECTION
            at = HASH_BITS * (1 - at) if bits else at
            axes.plot(*at, marker, color=colours[place % len(colours)], markersize=9, label=one.name)
    kept, covered = ("more", "fewer") if bits else ("less", "more")
    axes.set(title="HASH" if bits else SCALES[metric])
    axes.set_xlabel(f"kept slices: mean {SCALES[metric]} ({kept} is better)")
    axes.set_ylabel(f"worst covered dropped slice: {SCALES[metric]} ({covered} is better)")
    axes.locator_params(nbins=5)
    if bits:
        axes.invert_xaxis()
        axes.invert_yaxis()
