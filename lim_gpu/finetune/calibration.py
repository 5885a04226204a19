"""One temperature for all logits, so that probabilities hold as often as they say (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

import math

from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

LOWEST, HIGHEST = 0.05, 20.0  # where validation images are all right or all alike, the fit would go on for ever


def at_bound(temperature: float) -> bool:
    """Whether the fit would have gone on: the validation images are all right, or the network tells them nothing."""
    return not 1.01 * LOWEST < temperature < HIGHEST / 1.01


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T within LOWEST..HIGHEST of least cross entropy of softmax(logits / T).

    logits: (n, classes); labels: (n,) int64. The cross entropy has one valley in T, for it is convex in 1 / T.
    """
    values, true = logits.double().cpu(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(values / math.exp(log_temperature), true))

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return round(math.exp(found.x), 4)
