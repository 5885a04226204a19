"""How well simple classifiers tell the classes from frozen features, which shows what a pre-training has learnt.

knn     the 20 nearest training images by cosine vote with exp(cosine / 0.07) (Wu et al. 2018)
linear  logistic regression on standardised features, L2 with C = 1 (as Chen et al. 2020 probe, but by scikit-learn)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError

Floats = NDArray[Any]
NEIGHBOURS, TEMPERATURE = 20, 0.07
FOLDS = 5
PROBES = ("knn", "linear")


def _classifier(name: str, images: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    votes = {"weights": lambda distance: np.exp((1 - distance) / TEMPERATURE), "metric": "cosine"}
    return KNeighborsClassifier(min(NEIGHBOURS, images), **votes)


def probabilities(
    name: str, train: Floats, labels: NDArray[np.int64], test: Floats, classes: int
) -> NDArray[np.float64]:
    """(m, classes) of features `test` (m, d), by what the probe learns of `train` (n, d) and `labels` (n,).

    A class that the training images lack has probability 0. Raises UsageError for a single class.
    """
    if len(np.unique(labels)) < 2:
        raise UsageError("the training images are of one class. Give more --images, or other data")
    fitted = _classifier(name, len(train)).fit(train, labels)
    found = np.zeros((len(test), classes))
    found[:, fitted.classes_] = fitted.predict_proba(test)
    return found


def cross_validated(
    name: str, values: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64], classes: int, seed: int
) -> NDArray[np.float64]:
    """(n, classes) of each image by a probe that saw no image of its group (patient), in five stratified folds."""
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(groups)) < FOLDS:
        raise UsageError(f"{len(np.unique(groups))} patients cannot be put into {FOLDS} folds. Give more --images")
    found = np.zeros((len(values), classes))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(values, labels, groups):
        found[test] = probabilities(name, values[train], labels[train], values[test], classes)
    return found


def scores(found: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float | None]:
    """accuracy; auc, of the second class where there are two, else the mean over classes against the rest.

    The AUC is None where a class is missing among `labels`.
    """
    from sklearn.metrics import roc_auc_score

    accuracy = round(float((found.argmax(axis=1) == labels).mean()), 6)
    if len(np.unique(labels)) < found.shape[1]:
        return {"accuracy": accuracy, "auc": None}
    if found.shape[1] == 2:
        return {"accuracy": accuracy, "auc": round(float(roc_auc_score(labels == 1, found[:, 1])), 6)}
    each = [roc_auc_score(labels == place, found[:, place]) for place in range(found.shape[1])]
    return {"accuracy": accuracy, "auc": round(float(np.mean(each)), 6)}
