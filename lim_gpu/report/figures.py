"""The drawings of a report. Lines are of a grey that shows on light and on dark paper; the page colours the text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INK, ACCENT, OTHER = "#7f8a94", "#00a087", "#e64b35"
SERIES = ("#00a087", "#e64b35", "#4dbbd5", "#f0a35e", "#8491b4", "#b09c85")


def _axes(width: float = 6.4, height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK)
    axes.patch.set_alpha(0)
    return figure, axes


def knee(curve: ArrayLike) -> int:
    """Where a curve (m,) bends most: the index farthest from the line between its ends (Satopaa et al. 2011)."""
    values = np.asarray(curve, dtype=np.float64)
    span = np.ptp(values)
    if len(values) < 3 or span == 0:
        return 0
    x = np.linspace(0, 1, len(values))
    chord = values[0] + (values[-1] - values[0]) * x
    return int(np.argmax(np.abs(values - chord)))


def kept_counts(counts: Sequence[NDArray[np.int64]], titles: Sequence[str]) -> Any:
    """A histogram of the kept slices of the volumes, bars of one colour a selection."""
    figure, axes = _axes()
    most = max(int(count.max()) for count in counts)
    bins = np.arange(-0.5, most + 1.5, max(1, most // 40))
    colours = [SERIES[place % len(SERIES)] for place in range(len(counts))]
    axes.hist(list(counts), bins, color=colours, label=list(titles))  # side by side, so that equal counts are all seen
    axes.set(xlabel="slices kept", ylabel="volumes")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(counts) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def knee_left(curve: ArrayLike, slices: int) -> int:
    """How many of `slices` are left at the knee of their removal curve (m,)."""
    return slices - 1 - knee(curve)


def removal_curves(
    curves: Sequence[tuple[NDArray[np.float64], int]], scale: str, threshold: float | None, colour: str
) -> Any:
    """Similarity at which slices go against the share still left, a line a unit, and the median of all.

    curves: each with the number of its slices. The knee is the median of the units' own.
    """
    figure, axes = _axes()
    share = np.linspace(0, 1, 101)
    resampled = []
    for curve, slices in curves:
        resampled.append(np.interp(share, np.arange(1, len(curve) + 1) / slices, curve))
        axes.plot(100 * (1 - share), resampled[-1], color=INK, alpha=max(0.08, min(0.6, 4 / len(curves))), linewidth=1)
    axes.plot(100 * (1 - share), np.median(resampled, axis=0), color=colour, linewidth=2.2, label="median")
    left = float(np.median([knee_left(curve, slices) / slices for curve, slices in curves]))
    axes.axvline(100 * left, color=INK, linewidth=1, linestyle=":", label=f"median knee: {100 * left:.0f} % left")
    if threshold is not None:
        axes.axhline(threshold, color=INK, linewidth=1, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(xlabel="slices left, %", ylabel=scale, xlim=(100, 0))
    axes.legend(frameon=False, fontsize=8)
    return figure


def removal_curve(curve: NDArray[np.float64], slices: int, kept: int, scale: str, colour: str) -> Any:
    """The curve of one volume, with its knee and where the selection stopped."""
    figure, axes = _axes(4.6, 2.8)
    axes.step(slices - np.arange(1, len(curve) + 1), curve, where="mid", color=colour, linewidth=1.8)
    left = knee_left(curve, slices)
    axes.axvline(left, color=INK, linewidth=1, linestyle=":", label=f"knee: {left} left ({100 * left / slices:.0f} %)")
    axes.axvline(kept, color=INK, linewidth=1, linestyle="--", label=f"kept: {kept}")
    axes.set(xlabel="slices left", ylabel=scale, xlim=(slices, 0))
    axes.legend(frameon=False, fontsize=8)
    return figure


def matrix(thumbnail: dict[str, Any], kept: NDArray[np.bool_], scale: str, colour: str) -> Any:
    """The small picture of a matrix with its scale, kept slices marked along both sides.

    thumbnail: what black and white stand for may be in any unit; where less is more alike, the colours turn around.
    """
    from PIL import Image

    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail["png"])), formats=("PNG",)))
    low, high = thumbnail["low"], thumbnail["high"]
    values = low + grey / 255 * (high - low)
    figure, axes = _axes(4.6, 3.8)
    n = len(kept)
    shown = axes.imshow(
        values,
        cmap="magma" if low <= high else "magma_r",
        vmin=min(low, high),
        vmax=max(low, high),
        extent=(-0.5, n - 0.5, n - 0.5, -0.5),
        interpolation="nearest",
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.86, label=scale)
    bar.outline.set_edgecolor(INK)
    bar.ax.tick_params(color=INK)
    places = np.flatnonzero(kept)
    axes.plot(places, np.full(len(places), n - 0.5), "^", color=colour, markersize=5, clip_on=False, zorder=3)
    axes.plot(np.full(len(places), -0.5), places, ">", color=colour, markersize=5, clip_on=False, zorder=3)
    axes.set(xlabel="slice", ylabel="slice", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    return figure


def curve(steps: NDArray[np.float64], values: NDArray[np.float64], name: str, log: bool = False) -> Any:
    """One number of a run against its steps."""
    figure, axes = _axes(4.2, 2.4)
    axes.plot(steps, values, color=ACCENT, linewidth=1.4)
    axes.set(xlabel="step", title=name)
    if log:
        axes.set_yscale("log")
    return figure


def views_and_neighbours(views: Sequence[float], neighbours: Sequence[float], threshold: float, scale: str) -> Any:
    """How alike two views of one slice are, and a slice and the next; the threshold that follows."""
    figure, axes = _axes()
    both = [*views, *neighbours]
    bins = np.linspace(min(both), max(both), 31) if max(both) > min(both) else 10
    axes.hist(neighbours, bins, color=INK, alpha=0.6, density=True, label="a slice and the next")
    axes.hist(views, bins, color=ACCENT, alpha=0.6, density=True, label="two views of one slice")
    axes.axvline(threshold, color=OTHER, linewidth=1.4, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(xlabel=scale, ylabel="density")
    axes.legend(frameon=False, fontsize=8)
    return figure
