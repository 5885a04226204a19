"""T6: what may be concluded follows from the intervals, and the picture shows them."""

from __future__ import annotations

import pytest
from sklearn.metrics import roc_auc_score

from finetunings import read
from lim_gpu.evaluate import attributes
from lim_gpu.evaluate.points import Point, points
from lim_gpu.evaluate.study import RANDOM, Start, Tune


def test_probes_leave_the_backbone_and_are_scored_as_scikit_learn_does(tuned):
    study, output = tuned
    found = points("T6", study, output)
    assert [(point.name, point.job.target) for point in found] == [
        (name, target) for target in ("sex", "age") for name in ("random", "random, frozen")
    ]
    for point in found:
        record = read(output / point.job.folder / "runs/0/candidate-0/training.json")
        phases = {epoch["phase"] for epoch in record["history"]}
        assert phases == ({"head"} if point.job.frozen else {"all"})
        run = read(output / point.job.folder / "runs/0/test.json")
        area = roc_auc_score(run["labels"], [pair[1] for pair in run["probabilities"]])
        assert point.scores["auc"]["runs"][0] == pytest.approx(area, abs=1e-6)


def test_what_may_be_concluded_and_what_not_is_printed(tuned):
    study, output = tuned
    part = attributes.told(study, output)
    sex, age, *notes = part.notes
    tests = [read(path) for path in output.glob("finetune/attributes-sex/random-frozen/1/runs/*/test.json")]
    patients = len({group for test in tests for group in test["groups"]})
    assert sex == f"sex, {patients} test patients: too few to conclude anything"
    assert age.startswith("age, ")
    assert any(note.startswith("may be concluded: ") for note in notes)
    assert any(note.startswith("may not: ") for note in notes)
    assert part.tables[""][0][:4] == ["begins with", "sex: AUROC", "sex: 95 %", "sex: less random"]


@pytest.mark.parametrize(("patients", "concludes"), [(attributes.FEW - 1, False), (attributes.FEW, True)])
def test_of_few_patients_nothing_is_concluded_however_high_the_interval(tmp_path, monkeypatch, patients, concludes):
    monkeypatch.setattr(attributes, "_patients", lambda *_: patients)
    monkeypatch.setattr(attributes, "_better", lambda *_: True)
    score = {"mean": 1.0, "sd": 0.0, "interval": [1.0, 1.0]}
    job = Tune("attributes", Start("ours", file=tmp_path / "x.ckpt"), "sex", frozen=True)
    told = attributes.sentence("sex", [Point(job, 10, {"auc": score}, None)], None, tmp_path)
    assert ("ours" in told) == concludes


@pytest.mark.parametrize(("low", "said"), [(0.51, "ours"), (0.5, "none"), (None, "none")])
def test_above_chance_is_an_interval_above_a_half(tmp_path, monkeypatch, low, said):
    monkeypatch.setattr(attributes, "_patients", lambda *_: 100)
    score = {"mean": 0.7, "sd": None, "interval": low and [low, 0.9]}
    job = Tune("attributes", Start("ours", file=tmp_path / "x.ckpt"), "sex", frozen=True)
    study = None
    monkeypatch.setattr(attributes, "_better", lambda *_: False)
    told = attributes.sentence("sex", [Point(job, 10, {"auc": score}, None)], study, tmp_path)
    assert told == f"sex, 100 test patients: read above chance from {said}; better than from random, frozen: none"


def test_the_picture_has_a_dot_and_an_interval_a_start():
    score = {"mean": 0.7, "sd": 0.1, "interval": [0.6, 0.8]}
    found = [
        Point(Tune("attributes", start, target, frozen=frozen), 10, {"auc": score}, None)
        for target in ("sex", "age")
        for start, frozen in ((RANDOM, False), (RANDOM, True), (Start("flip", "flip"), True))
    ]
    figure = attributes.draw(found, ["sex", "age"])
    assert [axes.get_title() for axes in figure.axes] == ["sex", "age"]
    for axes in figure.axes:
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [dot.get_xydata().tolist() for dot in dots] == [[[0.7, place]] for place in (2, 1, 0)]
        spans = [list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
        assert spans == [[0.6, 0.8]] * 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["flip", "random, frozen", "random"]
