"""What paired runs can say of a claim: differences by pre-training seed, their interval and test, and a verdict.

The unit is the seed of the pre-training: with one seed every arm begins with the same weights, and is fine-tuned in the
same folds from the same heads, so that arms are compared seed by seed. More test images or folds make a seed's score
more certain; they are no more evidence of what another pre-training would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lim_gpu.finetune.metrics import BLOCK, RESAMPLES, Floats, Predictions, student_interval, weighted_scores

LEVEL = 0.05
POWER = 0.8
TOO_WIDE = 0.03  # half of an interval that says nothing: the papers' gains are 0.05 and 0.10
EXACT = 16  # seeds, of which all 65,536 flips are tried
FLIPS = 1 << 16  # drawn for more seeds
MOST_SEEDS = 1000

Seeds = Sequence[Sequence[Predictions]]  # of each pre-training seed, the predictions of its fine-tunings


@dataclass(frozen=True)
class Difference:
    """AUC of one arm less that of another.

    seeds     one value a pre-training seed; mean, sd: theirs (sd with ddof 1, None of one seed)
    interval  95 %, over seeds and test patients; None where nothing can be told
    p         of the sign-flip test, one-sided: that the first arm is no better
    """

    seeds: tuple[float, ...]
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    p: float


def difference(arm: Seeds, other: Seeds, positive: int, seed: int, resamples: int = RESAMPLES) -> Difference:
    """Compare two arms seed by seed. A seed's AUC is the mean over its fine-tunings, as `finetune` reports it.

    positive: the class whose AUC counts, of two. seed: of the draws of test patients, the same in both arms: patients
    are drawn with replacement, and all images of one count as often, in every fold and seed.
    """
    every = [one for runs in (*arm, *other) for one in runs]
    places, first = np.unique(np.concatenate([one.places for one in every]), return_index=True)
    names, group = np.unique(np.concatenate([one.groups for one in every])[first], return_inverse=True)

    def gain(weights: Floats) -> Floats:
        """(seeds, r) under weights (r, images)."""
        return _auc(arm, positive, places, weights) - _auc(other, positive, places, weights)

    rng, drawn = np.random.default_rng(seed), []
    step = max(1, BLOCK // len(places))
    for start in range(0, resamples, step):
        of_groups = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=min(step, resamples - start))
        drawn.append(gain(of_groups[:, group].astype(np.float64)).mean(axis=0))
    observed = gain(np.ones((1, len(places))))[:, 0]
    interval = student_interval(observed, np.concatenate(drawn), len(names), -1.0)
    sd = float(np.std(observed, ddof=1)) if len(observed) > 1 else None
    return Difference(
        tuple(observed.tolist()),
        float(observed.mean()),
        sd,
        None if interval is None else (interval[0], interval[1]),
        sign_flip(observed, seed),
    )


def _auc(seeds: Seeds, positive: int, places: NDArray[np.int64], weights: Floats) -> Floats:
    """(seeds, r) under weights (r, images), the images being `places`."""

    def of(one: Predictions) -> Floats:
        return weighted_scores(one, positive, weights[:, np.searchsorted(places, one.places)])["auc"]

    return np.stack([np.mean([of(one) for one in runs], axis=0) for runs in seeds])


def sign_flip(differences: Sequence[float] | Floats, seed: int = 0) -> float:
    """p of the claim that the mean of `differences` (n,) is above 0, where none of them had a reason to be so.

    Were the arms alike, each difference could as well have the other sign (Fisher 1935): p is the share of all choices
    of signs whose mean is at least the one that was seen, the seen one among them. Of more than EXACT differences
    FLIPS choices are drawn.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
        return float(np.mean(signs @ values >= values.sum() - _noise(values)))
    signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(FLIPS, len(values)))
    as_large = np.count_nonzero(signs @ values >= values.sum() - _noise(values))
    return float((as_large + 1) / (FLIPS + 1))


def _noise(values: Floats) -> float:
    """By which sums of the same values in another order may differ."""
    return float(1e-12 * np.abs(values).sum())


def holm(p: Sequence[float]) -> list[float]:
    """The p of several tests, adjusted so that one of them is wrong with at most the level of one (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate([min(1.0, (len(p) - k) * p[i]) for k, i in enumerate(order)])
    result = np.empty(len(p))
    result[order] = adjusted
    return [float(value) for value in result]


def verdict(found: Difference, adjusted: float) -> str:
    """ "shown", "not shown", or "too small to tell" where the interval is wider than ± TOO_WIDE and holds 0."""
    if found.interval is None:
        return "too small to tell"
    low, high = found.interval
    if adjusted < LEVEL and low > 0:
        return "shown"
    return "too small to tell" if (high - low) / 2 > TOO_WIDE and low <= 0 <= high else "not shown"


def power(gain: float, sd: float, seeds: int) -> float:
    """Probability that a paired t-test, two-sided at LEVEL, sees a true gain, where pairs deviate by `sd`."""
    from scipy.stats import nct, t

    if seeds < 2:
        return 0.0
    limit = t.ppf(1 - LEVEL / 2, seeds - 1)
    return float(nct.sf(limit, seeds - 1, gain / sd * math.sqrt(seeds)))


def seeds_needed(gain: float, sd: float) -> int | None:
    """The fewest seeds with which `power` reaches POWER; None for more than MOST_SEEDS."""
    return next((n for n in range(2, MOST_SEEDS + 1) if power(gain, sd, n) >= POWER), None)


def detectable(sd: float, seeds: int) -> float | None:
    """The smallest gain, in thousandths, that `seeds` seeds see with POWER; None up to a gain of 1."""
    return next((gain / 1000 for gain in range(1, 1001) if power(gain / 1000, sd, seeds) >= POWER), None)
