"""Evaluation F: does a stronger augmentation make up for slices that are left out? AUC by strength and share kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lim_gpu.evaluate.grid import Grid
from lim_gpu.report.figures import INK, SERIES

STRENGTH_PICTURE = "strength-auc.png"


def strength_picture(rows: Sequence[dict[str, Any]], grid: Grid) -> Any:
    """AUC of every task over the share of the slices that is kept, a line for each strength; bars: the deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6, 4.4 * len(grid.tasks)), 3.8), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(grid.tasks), squeeze=False)[0], grid.tasks, strict=True):
        ticks: set[float] = set()
        for place, strength in enumerate(grid.strengths):
            if points := sorted(_points(rows, strength, task.name)):
                shares, means, deviations = zip(*points, strict=True)
                ticks |= set(shares)
                about = {"color": SERIES[place % len(SERIES)], "capsize": 3, "label": f"strength {strength:g}"}
                axes.errorbar(shares, means, deviations, fmt="o-", **about)
        axes.set(title=task.name, xlabel="share of the slices kept", ylabel="AUC", xscale="log")
        axes.set_xticks(sorted(ticks), [f"{share:.0%}" for share in sorted(ticks)])
        axes.minorticks_off()
        axes.spines[:].set_color(INK)
        axes.tick_params(color=INK, which="both")
        axes.patch.set_alpha(0)
    entries = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    if entries:
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=len(entries), frameon=False)
    return figure


def _points(rows: Sequence[dict[str, Any]], strength: float, task: str) -> list[tuple[float, float, float]]:
    """Share kept, mean and deviation of the AUC of each row of a strength that is done."""
    whole = max((row["slices"] for row in rows if row.get("slices")), default=0)
    return [
        (row["slices"] / whole, ours["auc"]["mean"], ours["auc"]["sd"] or 0)
        for row in rows
        if row["strength"] == strength and row.get("slices")
        if (ours := row["tasks"][task]["ours"]) is not None and ours["auc"]["mean"] is not None
    ]
