"""Pictures of similarity matrices and of the slices that were kept."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.files import replacing
from lim_gpu.pruning.rules import every_n, on_gpu, to_numpy
from lim_gpu.spread import spread_evenly

THUMBNAIL = 128  # pixels a side of the picture kept with every result
SHOWN = 16  # kept slices beside a matrix


def matrix_thumbnail(matrix: Any) -> dict[str, Any]:
    """A small grey picture of a matrix (n, n), NumPy or torch: {"png": base64, "low": ..., "high": ...}.

    Black is the lowest and white the highest finite value off the diagonal; pairs that were not compared are black.
    """
    from PIL import Image

    low, high = finite_range(matrix)
    step = thumbnail_places(len(matrix))
    small = np.nan_to_num(to_numpy(matrix[step][:, step]), neginf=low)
    grey = np.clip((small - low) / ((high - low) or 1.0) * 255, 0, 255).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grey).save(out, format="PNG")
    return {"png": base64.b64encode(out.getvalue()).decode("ascii"), "low": low, "high": high}


def thumbnail_places(n: int) -> NDArray[np.int64]:
    """Which of n slices the small picture shows: all, or `THUMBNAIL` at equal distances."""
    return every_n(n, keep_count=THUMBNAIL)


def finite_range(matrix: Any) -> tuple[float, float]:
    """Lowest and highest finite value off the diagonal; the diagonal's own value when there is nothing else."""
    if on_gpu(matrix):
        from lim_gpu.pruning import cuda

        return cuda.finite_range(matrix)
    off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
    finite = off_diagonal[np.isfinite(off_diagonal)] if off_diagonal.size else matrix.ravel()
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def save_matrix_picture(
    path: Path,
    matrix: NDArray[Any],
    title: str,
    scale: str,
    kept: NDArray[np.int64] | None = None,
    images: NDArray[np.uint8] | None = None,
    *,
    distances: bool = False,
) -> None:
    """Draw a matrix (n, n) with its colour bar; with `kept` (k,) and `images` (k, H, W), the kept slices beside it.

    path: .png; scale: the label of the colour bar, with its unit; distances: less is more alike, and the colours turn
    around. Kept slices are marked along both axes.
    """
    from matplotlib.figure import Figure

    show_slices = kept is not None and images is not None and len(kept) > 0
    figure: Any = Figure(figsize=(13.5, 6.2) if show_slices else (7.2, 6.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1)) if show_slices else (figure, None)
    axes = left.subplots()
    low, high = finite_range(matrix)
    shown = axes.imshow(matrix, cmap="magma_r" if distances else "magma", vmin=low, vmax=high, interpolation="nearest")
    left.colorbar(shown, ax=axes, shrink=0.86, label=scale)
    axes.set(title=title, xlabel="slice", ylabel="slice")
    if kept is not None:
        _mark_kept(axes, kept, len(matrix))
    if right is not None and kept is not None and images is not None:
        _draw_slices(right, kept, images)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _mark_kept(axes: Any, kept: NDArray[np.int64], n: int) -> None:
    edge = n - 0.5
    axes.plot(kept, np.full(len(kept), edge), "^", color="#00a087", markersize=7, clip_on=False, zorder=3)
    axes.plot(np.full(len(kept), -0.5), kept, ">", color="#00a087", markersize=7, clip_on=False, zorder=3)
    axes.set(xlim=(-0.5, edge), ylim=(edge, -0.5))


def _draw_slices(figure: Any, kept: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
    shown = spread_evenly(len(kept), SHOWN)
    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    some = f", {len(shown)} of them shown" if len(shown) < len(kept) else ""
    figure.suptitle(f"{len(kept)} slice{'s' if len(kept) > 1 else ''} kept{some}")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
        if place < len(shown):
            axes.imshow(images[shown[place]], cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"slice {kept[shown[place]]}", fontsize=9)
