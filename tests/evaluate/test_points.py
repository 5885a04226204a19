"""The numbers of T3 to T6 are those of the predictions, by scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from finetunings import read
from lim_gpu.evaluate.points import less, points, pooled, told_less, told_spread
from lim_gpu.evaluate.study import BASELINE, RANDOM, Start, Tune
from lim_gpu.finetune.splits import DEFAULT_RUNS

RUNS = 2


def predictions_of(job, output):
    return [read(output / job.folder / "runs" / str(run) / "test.json") for run in range(RUNS)]


def test_areas_and_rates_are_scikit_learns(tuned):
    study, output = tuned
    found = points("T3", study, output)
    assert [(point.name, point.job.fraction) for point in found] == [
        (name, fraction) for name in ("baseline", "random") for fraction in (0.5, 1.0)
    ]
    for point in found:
        runs = predictions_of(point.job, output)
        areas = [roc_auc_score(run["labels"], np.array(run["probabilities"])[:, 1]) for run in runs]
        assert point.scores["auc"]["runs"] == pytest.approx(areas, abs=1e-6)
        assert point.scores["auc"]["mean"] == pytest.approx(np.mean(areas), abs=1e-6)
        assert point.scores["auc"]["sd"] == pytest.approx(np.std(areas, ddof=1), abs=1e-6)
        rates = [_rates(run) for run in runs]
        for place, name in enumerate(("sensitivity", "specificity")):
            assert point.scores[name]["mean"] == pytest.approx(np.mean([rate[place] for rate in rates]))


def _rates(run):
    called = np.array(run["probabilities"])[:, 1] >= run["threshold"]
    (right, alarms), (missed, seen) = confusion_matrix(run["labels"], called)
    return seen / (seen + missed), right / (right + alarms)


def test_a_difference_is_that_of_the_same_runs(tuned):
    study, output = tuned
    own = {(point.name, point.job.fraction): point for point in points("T3", study, output)}
    for fraction in (0.5, 1.0):
        assert own["baseline", fraction].less is None
        less = own["random", fraction].less
        means = [own[name, fraction].scores["auc"]["mean"] for name in ("random", "baseline")]
        assert less["mean"] == pytest.approx(means[0] - means[1])
        assert less["interval"][0] <= less["mean"] <= less["interval"][1]
    assert own["random", 0.5].images < own["random", 1.0].images
    assert all(point.less is None for point in points("T5", study, output))  # random alone is there


def test_seeds_do_not_make_runs_and_test_images_certain(tuned):
    study, output = tuned
    one = next(point for point in points("T3", study, output) if point.name == "random")
    other = output / replace(one.job, start=BASELINE).folder
    twice = less([output / one.job.folder] * 2, other, "auc")  # two seeds of equal scores
    assert twice["mean"] == pytest.approx(one.less["mean"])
    assert twice["interval"] == pytest.approx(one.less["interval"])
    assert twice["interval"][0] < twice["mean"] < twice["interval"][1]


def test_overlaps_are_those_of_the_images(tuned):
    study, output = tuned
    for point in points("T5", study, output):
        for name in ("dice", "iou"):
            images = [np.array(run[name], dtype=float) for run in predictions_of(point.job, output)]
            assert point.scores[name]["runs"] == pytest.approx([np.nanmean(image) for image in images])


def test_of_several_pre_trainings_the_means_count(tuned, tmp_path):
    study, _ = tuned
    seeds = [{"auc": {"mean": mean, "sd": 9.0, "runs": [0.0], "interval": None}} for mean in (0.6, 0.7, 0.8)]
    score = pooled([results["auc"] for results in seeds])
    assert score["mean"] == pytest.approx(0.7)
    assert score["sd"] == pytest.approx(0.1)
    assert score["interval"] is None  # of none is anything told of its images
    certain = [auc | {"interval": [auc["mean"] - 0.3, auc["mean"] + 0.2]} for auc in (one["auc"] for one in seeds)]
    seeds_alone = 4.302653 * 0.1 / 3**0.5
    assert pooled(certain)["interval"] == pytest.approx([0.7 - np.hypot(0.3, seeds_alone), 1.0])  # no area is above 1
    assert pooled([certain[0], certain[1], score | {"mean": 0.8}])["interval"] == pooled(certain)["interval"]
    assert told_spread(score) == "0.700 ± 0.100"
    assert told_less({"mean": 0.1, "interval": None}) == "+0.100"
    assert points("T3", study, tmp_path) == []  # nothing is done there


def test_what_is_asked_of_a_fine_tuning(tuned, tmp_path):
    from lim_gpu.evaluate.study_work import request

    study, _ = tuned
    given = (tmp_path / "last.ckpt",)
    start = Start("ours", file=given[0])
    asked = request(study, Tune("attributes", start, "sex", frozen=True), given, 3)
    assert asked.protocol.head_epochs == asked.protocol.epochs == 2
    assert (asked.target, asked.seed, asked.checkpoints, asked.backbone, asked.init) == ("sex", 3, given, None, None)
    assert not asked.protocol.flip
    asked = request(study, Tune("classification", BASELINE, fraction=0.5), (), 0)
    assert (asked.backbone, asked.init, asked.fraction, asked.choose) == ("vqae-small", "calibrated", 0.5, "auc")
    assert request(study, Tune("segmentation", RANDOM), (), 0).segments
    starts = [request(study, Tune("attributes", RANDOM, "age", frozen=frozen), (), 0).init for frozen in (False, True)]
    assert starts == [None, "calibrated"]
    longer = replace(study.tasks["attributes"], options={**study.tasks["attributes"].options, "runs": DEFAULT_RUNS})
    assert request(replace(study, tasks={"attributes": longer}), Tune("attributes", RANDOM, "age"), (), 0).runs == 5


def test_the_limits_of_a_difference_stay_within_what_it_can_be(tmp_path, monkeypatch):
    """Two seeds that disagree: Student's interval of them alone would reach far beyond."""
    found = {"a": -0.9, "b": 0.1}

    def scores(one, _):
        return {"auc": {"mean": found[one.name], "interval": [-1.0, found[one.name] + 0.2]}}

    monkeypatch.setattr("lim_gpu.evaluate.points.compare", scores)
    told = less([tmp_path / name for name in found], tmp_path / "random", "auc")
    assert told == {"mean": pytest.approx(-0.4), "interval": [-1, 1]}
