"""Scores against scikit-learn and MONAI, weights against repetition, and what intervals mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from lim_gpu.finetune.metrics import Predictions, bootstrap, paired, scores, student_interval, summary, weighted_scores


def drawn(classes, n=120, seed=0, skill=0.4):
    """Random predictions with ties, better than chance by `skill`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    probabilities = rng.dirichlet(np.ones(classes), n)
    probabilities[np.arange(n), labels] += skill
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).round(2)
    return Predictions(np.arange(n), np.arange(n), labels, probabilities)


@pytest.mark.parametrize("positive", [0, 1])
def test_two_classes_as_scikit_learn_and_monai(positive):
    p = drawn(2)
    found = scores(p, ("covid", "noncovid"), positive)
    true = p.labels == positive
    from monai.metrics import compute_roc_auc

    monai = compute_roc_auc(torch.from_numpy(p.probabilities[:, positive]), torch.from_numpy(true.astype(int)))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(true, p.probabilities[:, positive]), abs=1e-5)
    assert found["auc"] == pytest.approx(monai, abs=1e-5)
    assert found["f1"] == pytest.approx(sk.f1_score(p.labels, p.predicted, pos_label=positive), abs=1e-5)
    assert found["f1"] == found["f1_of"][("covid", "noncovid")[positive]]
    assert found["acc"] == pytest.approx((p.labels == p.predicted).mean(), abs=1e-5)
    assert found["confusion"] == sk.confusion_matrix(p.labels, p.predicted).tolist()


def test_many_classes_as_scikit_learn():
    p = drawn(5)
    found = scores(p, "abcde", 1)
    # scikit-learn refuses rows that do not add up to 1 to the last bit
    normalised = p.probabilities / p.probabilities.sum(axis=1, keepdims=True)
    one_hot = np.eye(5)[p.labels]
    assert found["auc"] == pytest.approx(sk.roc_auc_score(one_hot, p.probabilities, average="macro"), abs=1e-5)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(p.labels, normalised, multi_class="ovr"), abs=0.01)
    for kind in ("macro", "micro", "weighted"):
        assert found[f"f1_{kind}"] == pytest.approx(sk.f1_score(p.labels, p.predicted, average=kind), abs=1e-5)
    assert found["f1"] == found["f1_macro"]
    assert found["f1_micro"] == pytest.approx(found["acc"])


@pytest.mark.parametrize("classes", [2, 4])
def test_a_weight_is_a_repetition(classes):
    p = drawn(classes)
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 3, (4, len(p.labels)))
    found = weighted_scores(p, 1, weights.astype(float))
    for row, weight in enumerate(weights):
        again = np.repeat(np.arange(len(p.labels)), weight)
        repeated = Predictions(again, again, p.labels[again], p.probabilities[again])
        expected = scores(repeated, [str(c) for c in range(classes)], 1)
        for name in ("auc", "f1", "acc"):
            assert found[name][row] == pytest.approx(expected[name], abs=2e-6), name


def test_summary_has_the_deviation_of_a_sample():
    assert summary([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0, "runs": [1.0, 2.0, 3.0]}
    assert summary([0.5])["sd"] is None


def test_an_interval_holds_the_value_narrows_with_images_and_repeats():
    widths = []
    for n in (60, 960):
        runs = [drawn(2, n, seed) for seed in range(3)]
        found = bootstrap(runs, 1, 0, resamples=500)
        assert found == bootstrap(runs, 1, 0, resamples=500)
        mean = np.mean([scores(run, "ab", 1)["auc"] for run in runs])
        assert found["auc"][0] < mean < found["auc"][1]
        widths.append(found["auc"][1] - found["auc"][0])
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("of_runs", [0.3, 1.0, 10.0])
def test_an_interval_of_five_runs_covers_what_it_says(of_runs):
    """Of 1,000 experiments with two levels of chance; drawing among five runs that differ covered 84 %."""
    rng = np.random.default_rng(0)
    held, experiments, groups = 0, 1000, 40
    for _ in range(experiments):
        image = rng.normal(0, 0.01, groups)
        run = image.mean() + rng.normal(0, of_runs * 0.01 / np.sqrt(groups), 5)
        drawn = image.mean() + rng.normal(0, image.std() / np.sqrt(groups), 200)  # as means of resamples come out
        low, high = student_interval(run + 0.5, drawn + 0.5, groups, 0.0)
        held += low < 0.5 < high
    assert 0.93 < held / experiments < 0.995


def test_five_runs_that_differ_are_covered_from_their_predictions():
    """The skill of a run is chance, the truth is their mean; a percentile bootstrap held 81 % of these."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(120):
        skills = rng.normal(0.8, 0.05, 5)
        labels = np.arange(200) % 2
        right = rng.random((5, 200)) < skills[:, None]
        runs = [
            Predictions(np.arange(200), np.arange(200), labels, np.eye(2)[np.where(row, labels, 1 - labels)])
            for row in right
        ]
        low, high = bootstrap(runs, 1, seed, resamples=50)["acc"]
        held += low < 0.8 < high
    assert held / 120 > 0.92


def test_limits_stay_within_what_a_score_can_be():
    assert student_interval(np.array([0.99, 0.999, 1.0]), np.array([0.99, 1.0]), 9, 0.0)[1] == 1
    low, high = student_interval(np.array([-0.9, 0.9]), np.array([-0.1, 0.1]), 9, -1.0)
    assert (low, high) == (-1, 1)
    assert student_interval(np.array([0.5]), np.array([0.5, 0.5]), 1, 0.0) is None  # one run, one patient


def test_a_score_that_no_draw_changes_has_no_interval():
    """Six patients told apart by chance are no certainty; two networks that say the same do not differ."""
    labels = np.array([0, 1] * 3)
    perfect = [Predictions(np.arange(6), np.arange(6), labels, np.eye(2)[labels])] * 3
    wrong = [Predictions(np.arange(6), np.arange(6), labels, np.eye(2)[1 - labels])] * 3
    alone = bootstrap(perfect, 1, 0, resamples=20)
    assert alone["auc"] is None
    assert alone["acc"] is None
    assert bootstrap(perfect, 1, 0, minus=wrong, resamples=20)["acc"] is None
    assert bootstrap(perfect, 1, 0, minus=perfect, resamples=20)["acc"] == [0, 0]
    for same in (0.1, 1 / 3, 0.7, -0.3):  # of which sums are no multiples
        assert student_interval(np.full(3, same), np.full(20, same), 6, -1.0) is None


def test_images_of_one_patient_are_drawn_together():
    p = drawn(2, 200)
    by_ten = Predictions(np.repeat(p.places, 10) * 10 + np.tile(np.arange(10), 200), np.repeat(p.places, 10),
                         np.repeat(p.labels, 10), np.repeat(p.probabilities, 10, axis=0))  # fmt: skip
    alone = Predictions(by_ten.places, by_ten.places, by_ten.labels, by_ten.probabilities)
    width = {
        name: np.ptp(bootstrap([run], 1, 0, resamples=400)["acc"])
        for name, run in (("own", p), ("ten", by_ten), ("alone", alone))
    }
    assert width["ten"] == pytest.approx(width["own"], rel=0.25)
    assert width["alone"] < width["own"] / 2


def test_a_difference_to_itself_is_nothing_and_to_a_worse_one_is_found():
    good, bad = ([drawn(2, 150, seed, skill) for seed in range(4)] for skill in (0.8, 0.1))
    assert bootstrap(good, 1, 0, minus=good, resamples=100)["auc"] == pytest.approx([0, 0], abs=1e-12)
    low, high = bootstrap(good, 1, 0, minus=bad, resamples=400)["auc"]
    assert 0 < low < high
    found = paired([0.9, 0.8, 0.85], [0.7, 0.7, 0.7], [0.1, 0.2])
    assert found["mean"] == pytest.approx(0.15)
    assert found["t"] == pytest.approx(0.15 / (0.05 / np.sqrt(3)))
    assert found["degrees_of_freedom"] == 2
    assert paired([0.9], [0.7], None)["t"] is None


def test_a_class_that_no_resample_holds_has_no_interval():
    one = Predictions(np.arange(4), np.zeros(4, int), np.array([1, 1, 1, 1]), np.full((4, 2), 0.5))
    assert bootstrap([one], 1, 0, resamples=10)["auc"] is None
