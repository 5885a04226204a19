"""t-SNE of classifier outputs (van der Maaten and Hinton 2008; the paper's Figures 10 and 11), with two figures beside.

The paper reports the Pearson correlation between "the t-SNE values and the target classes" without saying how two
coordinates become one; here it is the multiple correlation of the target with both coordinates, which does not change
when the map is turned (t-SNE fixes no direction), averaged over one-vs-rest targets. The silhouette tells how apart the
classes lie.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError


def embed(values: NDArray[np.float32], seed: int, perplexity: float = 30) -> NDArray[np.float64]:
    """(n, d) as (n, 2) by scikit-learn's t-SNE; the perplexity is lowered to (n - 1) / 3 for few images."""
    from sklearn.manifold import TSNE

    if len(values) < 5:
        raise UsageError(f"t-SNE of {len(values)} images says nothing. Give at least 5")
    perplexity = min(perplexity, (len(values) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(values), np.float64)


def correlation(points: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Multiple correlation, 0..1, of one-vs-rest targets with the coordinates (n, 2), the mean over the classes."""
    found = []
    design = np.column_stack([points - points.mean(axis=0), np.ones(len(points))])
    for label in np.unique(labels):
        target = (labels == label).astype(float)
        fitted = design @ np.linalg.lstsq(design, target, rcond=None)[0]
        spread = fitted.std() * target.std()
        found.append(float(np.corrcoef(fitted, target)[0, 1]) if spread > 0 else 0.0)
    return float(np.mean(found[:1] if len(found) == 2 else found))  # of two classes each is the other's mirror


def silhouette(points: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Mean silhouette, -1..1, of the classes (Rousseeuw 1987); None for a single class."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels)) if 1 < len(np.unique(labels)) < len(labels) else None
