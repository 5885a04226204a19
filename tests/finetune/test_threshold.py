"""AUC and Youden's threshold, against scikit-learn and by trying all; the rates and their interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lim_gpu.finetune.threshold import auc, rates, rates_interval, youden


@pytest.fixture(params=range(4))
def scored(request):
    """Scores with ties, the last draw with few positives."""
    rng = np.random.default_rng(request.param)
    positive = rng.random(60) > (0.9 if request.param == 3 else 0.6)
    return (rng.normal(positive * 0.8, 1).round(1) / 10).clip(0, 1), positive


def test_the_auc_is_that_of_scikit_learn(scored):
    score, positive = scored
    both = np.column_stack([1 - score, score])
    assert auc(both, positive.astype(int), 1) == pytest.approx(roc_auc_score(positive, score))
    assert auc(both, positive.astype(int), 0) == pytest.approx(roc_auc_score(positive, score))


def test_of_several_classes_it_is_the_mean_of_each_against_the_rest():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert auc(probabilities, labels, 1) == pytest.approx(expected)
    assert auc(probabilities, np.zeros(50, dtype=int), 1) == 0.5


def test_no_threshold_gains_more_than_youdens_and_of_equal_ones_it_is_the_highest(scored):
    score, positive = scored

    def gained(threshold):
        return sum(rates(score, positive, threshold).values())

    found = youden(score, positive)
    best = max(gained(level) for level in np.linspace(0, 1, 1001))
    assert gained(found) == pytest.approx(best)
    assert all(gained(level) < gained(found) - 1e-12 for level in np.unique(score) if level > found)


def test_without_a_class_every_threshold_is_as_good():
    assert youden(np.array([0.1, 0.9]), np.array([True, True])) is None


def test_rates_are_of_what_is_called_positive_from_the_threshold_on():
    score, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    assert rates(score, positive, 0.4) == {"sensitivity": 1.0, "specificity": 0.5}
    assert rates(score, positive, 0.41) == {"sensitivity": 0.5, "specificity": 1.0}


def test_the_interval_of_the_rates_is_over_patients():
    groups, positive = np.repeat([0, 1, 2, 3], 10), np.ones(40, dtype=bool)
    called = np.repeat([True, False, True, False], 10)
    low, high = rates_interval([(groups, positive, called)], 0)["sensitivity"]
    assert (low, high) == (0, 1)  # as of four images, not of forty
    assert rates_interval([(groups, positive, called)], 0)["specificity"] is None
