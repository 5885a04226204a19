"""Dice, IoU and their intervals, against MONAI's metrics and formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lim_gpu.finetune.overlap import interval, mean, overlap


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    one, two = (rng.random((9, 1, 13, 17)) > 0.6 for _ in range(2))
    two[3] = False  # nothing there
    one[4] = False  # nothing predicted
    one[5] = two[5]
    return one, two


def test_dice_and_iou_are_those_of_monai(masks):
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    one, two = (torch.from_numpy(mask).float() for mask in masks)
    dice, iou = overlap(*masks)
    np.testing.assert_allclose(dice, metrics.compute_dice(one, two)[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(iou, metrics.compute_iou(one, two)[:, 0].numpy(), rtol=1e-6)
    assert np.isnan(dice[3])
    assert (dice[4], dice[5], iou[5]) == (0, 1, 1)


def test_the_mean_is_over_images_on_which_something_is():
    assert mean(np.array([0.2, np.nan, 0.4])) == pytest.approx(0.3)
    assert np.isnan(mean(np.array([np.nan])))


def test_an_interval_is_over_patients_and_not_over_images():
    """100 images of two patients say nothing, where 100 patients give a narrow interval."""
    values = np.repeat([0.2, 0.8], 50)
    few = interval([(np.repeat([0, 1], 50), values)], 0)
    many = interval([(np.arange(100), values)], 0)
    assert few == [0, 1]
    sd = values.std() / np.sqrt(100)
    assert np.diff(many)[0] == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_a_difference_is_paired_by_patient():
    rng = np.random.default_rng(0)
    groups, values, less = np.arange(20), rng.random(20), 0.25 + 0.01 * rng.random(20)
    low, high = interval([(groups, values)], 0, minus=[(groups, values - less)])
    assert 0.25 < low < less.mean() < high < 0.26
    assert interval([(groups, values)], 0, minus=[(groups, values - 0.25)]) is None  # no draw differs
    low, high = interval([(groups, values)], 0)
    assert high - low > 0.1


def test_how_runs_differ_counts_as_students_t_has_it():
    groups, runs = np.arange(4), np.linspace(0.3, 0.7, 5)
    found = interval([(groups, np.full(4, value)) for value in runs], 0)
    assert found == pytest.approx(stats.t.interval(0.95, 4, runs.mean(), stats.sem(runs)))


def test_images_without_anything_do_not_count():
    groups, values = np.arange(6), np.array([0.4, np.nan, 0.5, np.nan, 0.6, np.nan])
    low, high = interval([(groups, values)], 0)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert low < 0.5
    assert interval([(groups, np.full(6, np.nan))], 0) is None
