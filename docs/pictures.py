"""The pictures of the concepts, drawn from procedural CT: `python docs/pictures.py` writes them into docs/pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import lim_gpu
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom
from lim_gpu.pruning.rules import leader, nearest_kept

FOLDER = Path(__file__).parent / "pictures"
KEPT, DROPPED, GREY = "#00a087", "#e64b35", "#b8b8b8"
KEEP = 0.1
LEXICOGRAPHIC = np.array(sorted(range(36), key=str))


def chest() -> NDArray[np.uint8]:
    """The longest volume of `lim-gpu demo`, (36, 192, 192)."""
    return Intensity.parse().to_uint8(phantom("chest", 36, 192, 192, seed=0))


def similarity_matrix() -> Figure:
    """The matrix, the slices kept, and three slices of it."""
    slices = chest()
    matrix = lim_gpu.similarity_matrix(slices, "ssim").numpy()
    kept = lim_gpu.prune(matrix, keep=KEEP)
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    panels = figure.subplot_mosaic("MMMa;MMMb;MMMc")
    shown = panels["M"].imshow(matrix, cmap="viridis")
    figure.colorbar(shown, ax=panels["M"], label="SSIM", shrink=0.9)
    panels["M"].plot(kept, kept, "o", color="white", markeredgecolor=DROPPED, markersize=8, label="kept (10 %)")
    panels["M"].legend(loc="upper right", fontsize=8)
    panels["M"].set(xlabel="slice", ylabel="slice")
    for panel, i, j in (("a", 10, 11), ("b", 10, 14), ("c", 10, 30)):
        panels[panel].imshow(np.hstack([slices[i], slices[j]]), cmap="gray")
        panels[panel].set_title(f"slices {i} and {j}: SSIM {matrix[i, j]:.2f}", fontsize=8)
        panels[panel].set_axis_off()
    return figure


def rules() -> Figure:
    """What greedy and leader keep of one matrix at one threshold."""
    matrix = lim_gpu.similarity_matrix(chest(), "ssim").numpy()
    threshold = 0.8
    rows = {
        "greedy (the paper's text)": lim_gpu.prune(matrix, threshold=threshold),
        "leader, spatial order": leader(matrix, threshold),
        "leader, lexicographic\n(the authors' script)": leader(matrix, threshold, LEXICOGRAPHIC),
    }
    figure = Figure(figsize=(8, 2), layout="constrained")
    axes = figure.subplots()
    for y, kept in enumerate(rows.values()):
        axes.scatter(range(36), [y] * 36, marker="|", s=90, color=GREY)
        axes.scatter(kept, [y] * len(kept), marker="s", s=36, color=KEPT)
        axes.text(36.5, y, f"keeps {len(kept)}", va="center", fontsize=9)
    axes.set_yticks(range(3), list(rows))
    axes.set(xlabel=f"slice; kept ones are squares, SSIM threshold {threshold}", xlim=(-1, 41), ylim=(2.6, -0.6))
    axes.spines[:].set_visible(False)
    return figure


def removal_curve() -> Figure:
    """Similarity of the pair that is removed next against the slices left, with a budget and a threshold."""
    ranking = lim_gpu.rank(lim_gpu.similarity_matrix(chest(), "ssim"))
    left = ranking.n - np.arange(len(ranking.dropped))
    threshold, budget = 0.8, len(ranking.keep(KEEP))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(left, ranking.similarity, "o-", color=KEPT, markersize=4)
    axes.invert_xaxis()
    axes.axhline(threshold, color=DROPPED, linestyle="--")
    stays = len(ranking.threshold(threshold))
    axes.text(36, threshold - 0.004, f"--threshold {threshold}: stops at {stays}", color=DROPPED, va="top")
    axes.axvline(budget, color="#3c5488", linestyle="--")
    axes.text(budget + 0.4, 0.65, f"--keep {KEEP}: stops at {budget}", color="#3c5488", ha="right")
    axes.set(xlabel="slices left", ylabel="SSIM of the closest pair left")
    return figure


def covered_by() -> Figure:
    """A few kept slices, each with the dropped slices that it stands for."""
    slices = chest()
    matrix = lim_gpu.similarity_matrix(slices, "ssim")
    kept = lim_gpu.prune(matrix, keep=KEEP)
    covering, similarity = nearest_kept(matrix, kept)
    figure = Figure(figsize=(8, 1.55 * len(kept)), layout="constrained")
    for row, panels in zip(kept, figure.subplots(len(kept), 6, squeeze=False), strict=True):
        covered = [i for i in np.flatnonzero(covering == row) if i != row]
        shown = [covered[int(place)] for place in np.linspace(0, len(covered) - 1, min(5, len(covered)))]
        _show(panels[0], slices[row], f"kept {row}", f"stands for {len(covered)}", KEPT)
        for axes, i in zip(panels[1:], shown, strict=False):
            _show(axes, slices[i], f"dropped {i}", f"SSIM {float(similarity[i]):.2f}", GREY)
        for axes in panels[1 + len(shown) :]:
            axes.set_axis_off()
    return figure


def _show(axes: Any, image: NDArray[np.uint8], title: str, label: str, colour: str) -> None:
    axes.imshow(image[::2, ::2], cmap="gray")
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(label, fontsize=8)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3)


def scope() -> Figure:
    """Two patients, three volumes: what is pruned together, and what the budget counts."""
    counts = {"A, volume 1": 20, "A, volume 2": 12, "B, volume 3": 16}
    base = phantom("chest", 20, 128, 128, seed=1)
    rng = np.random.default_rng(0)
    again = np.clip(base[:12] + rng.normal(0, 20, base[:12].shape), -1024, 3071).astype(np.int16)  # scanned twice
    volumes = [base, again, phantom("abdomen", 16, 128, 128, seed=2)]
    slices = Intensity.parse().to_uint8(np.concatenate(volumes))
    owners = {"volume": [0] * 20 + [1] * 12 + [2] * 16, "patient": [0] * 32 + [2] * 16, "dataset": [0] * 48}
    figure = Figure(figsize=(8, 3), layout="constrained")
    starts = np.cumsum([0, *counts.values()])
    for axes, (name, owner) in zip(figure.subplots(3, 1), owners.items(), strict=True):
        stays = np.zeros(48, bool)
        for unit in set(owner):
            own = np.flatnonzero(np.array(owner) == unit)
            stays[own[lim_gpu.prune(lim_gpu.similarity_matrix(slices[own], "ssim"), keep=0.25)]] = True
        places = np.arange(48) + np.repeat(range(3), list(counts.values())) * 2
        axes.scatter(places, [0] * 48, marker="s", s=52, color=[KEPT if stay else GREY for stay in stays])
        for start, stop, title in zip(starts, starts[1:], counts, strict=False):
            axes.text(places[start] - 0.5, 0.6, f"{title}: {stays[start:stop].sum()} stay", fontsize=8)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[], ylim=(-0.6, 1.3))
        axes.spines[:].set_visible(False)
    return figure


PICTURES = {
    "matrix": similarity_matrix,
    "rules": rules,
    "curve": removal_curve,
    "covered": covered_by,
    "scope": scope,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        draw().savefig(FOLDER / f"{name}.png", dpi=90, metadata={"Software": None})
