"""What paired runs can say: against scipy, against the definition, and by the power table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lim_gpu.evaluate.evidence import (
    EXACT,
    Difference,
    detectable,
    difference,
    holm,
    power,
    seeds_needed,
    sign_flip,
    verdict,
)
from lim_gpu.finetune.metrics import Predictions, bootstrap, weighted_scores

IMAGES = 40


def run(seed: int, skill: float, groups: int = IMAGES) -> Predictions:
    """Predictions that know the label the better the higher `skill` is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % 2
    score = 1 / (1 + np.exp(-(rng.normal(size=IMAGES) + skill * (2 * labels - 1))))
    places = np.arange(IMAGES)
    return Predictions(places, places % groups, labels, np.stack([1 - score, score], axis=1))


def auc(one: Predictions) -> float:
    return float(weighted_scores(one, 1, np.ones((1, IMAGES)))["auc"][0])


def test_with_one_fine_tuning_a_seed_the_interval_is_that_of_paired_runs():
    arm, other = [run(seed, 0.8) for seed in range(5)], [run(seed + 50, 0.4) for seed in range(5)]
    found = difference([[one] for one in arm], [[one] for one in other], 1, 7)
    assert found.interval == pytest.approx(bootstrap(arm, 1, 7, minus=other)["auc"], abs=1e-12)
    assert found.seeds == pytest.approx([auc(a) - auc(b) for a, b in zip(arm, other, strict=True)])
    assert found.mean == pytest.approx(np.mean(found.seeds))
    assert found.sd == pytest.approx(np.std(found.seeds, ddof=1))


def test_a_seed_counts_once_however_often_it_is_fine_tuned():
    """More folds of the same seeds narrow nothing: their scores are meant before seeds are compared."""
    arm = [[run(10 * seed + fold, 0.8) for fold in range(3)] for seed in range(4)]
    other = [[run(10 * seed + fold + 500, 0.4) for fold in range(3)] for seed in range(4)]
    found = difference(arm, other, 1, 0)
    means = (
        [np.mean([auc(one) for one in runs]) for runs in arm],
        [np.mean([auc(one) for one in runs]) for runs in other],
    )
    assert found.seeds == pytest.approx(np.subtract(*means))
    assert found.p in [k / 16 for k in range(17)]
    twice = difference([[*runs, *runs] for runs in arm], [[*runs, *runs] for runs in other], 1, 0)
    assert twice.interval == pytest.approx(found.interval)


def test_images_of_one_patient_are_drawn_together():
    """Few patients with many images tell less than as many images of patients of their own."""
    wide, narrow = (
        difference([[run(0, 0.8, groups)]], [[run(1, 0.4, groups)]], 1, 0).interval for groups in (4, IMAGES)
    )
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_the_sign_flip_test_is_scipys(n, shift):
    values = np.random.default_rng(n).normal(shift, 1, n)
    if n == 1:
        assert sign_flip(values) == (0.5 if values[0] > 0 else 1.0)
        return
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative="greater")
    assert sign_flip(values) == pytest.approx(expected.pvalue, abs=1e-12)


def test_the_smallest_p_is_that_of_all_seeds_alike():
    assert sign_flip([0.1] * 6) == 1 / 64
    assert sign_flip([0.0] * 6) == 1


def test_of_many_seeds_flips_are_drawn():
    values = np.random.default_rng(3).normal(0.3, 1, EXACT + 4)
    exact = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert sign_flip(values, 1) == sign_flip(values, 1)
    assert sign_flip(values) == pytest.approx(exact, abs=0.02)  # of normal values the tests agree


def test_holm_by_its_definition():
    p = [0.01, 0.04, 0.03, 0.5]
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.02]) == [0.02]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize(("sd", "seeds"), [(0.01, 4), (0.015, 5), (0.02, 6), (0.03, 10), (0.04, 16)])
def test_the_seeds_for_a_gain_of_three_hundredths(sd, seeds):
    assert seeds_needed(0.03, sd) == seeds
    assert power(0.03, sd, seeds) >= 0.8 > power(0.03, sd, seeds - 1)
    assert detectable(sd, seeds) <= 0.03 < detectable(sd, seeds - 1)


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.03, 0.02, (20_000, 6))
    seen = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert power(0.03, 0.02, 6) == pytest.approx(np.mean(seen & (draws.mean(axis=1) > 0)), abs=0.015)


def test_what_cannot_be_seen_is_none():
    assert power(0.03, 0.02, 1) == 0
    assert seeds_needed(0.001, 0.5) is None
    assert detectable(0.1, 1) is None


@pytest.mark.parametrize(
    ("interval", "p", "said"),
    [
        ((0.01, 0.05), 0.02, "shown"),
        ((0.01, 0.09), 0.02, "shown"),  # wide, and above 0 all the same
        ((0.01, 0.05), 0.06, "not shown"),
        ((-0.01, 0.02), 0.3, "not shown"),
        ((-0.05, -0.02), 1.0, "not shown"),
        ((-0.04, 0.05), 0.3, "too small to tell"),
        (None, 1.0, "too small to tell"),
    ],
)
def test_the_verdict(interval, p, said):
    assert verdict(Difference((0.0,), 0.0, None, interval, p), p) == said
