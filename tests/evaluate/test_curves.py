"""Tables and pictures of T3 to T5: a curve a start, with its band, through the numbers of the table."""

from __future__ import annotations

import numpy as np
import pytest

from finetunings import read
from lim_gpu.evaluate import curves
from lim_gpu.evaluate.points import Point, points
from lim_gpu.evaluate.study import BASELINE, RANDOM, Start, Tune


def point(start, fraction, auc, sd=0.02):
    scores = {name: {"mean": auc, "sd": sd, "interval": None} for name in ("auc", "sensitivity", "specificity")}
    return Point(Tune("classification", start, "", fraction), 100 * fraction, scores, None)


MASKED, FLIP = Start("masked 0.2", "masked", 3), Start("flip", "flip")
POINTS = [
    point(start, fraction, 0.5 + place / 10 + fraction / 100)
    for place, start in enumerate((BASELINE, RANDOM, MASKED, FLIP))
    for fraction in (1.0, 0.1)
]


def test_a_curve_a_start_through_its_points_and_a_band_about_it():
    figure = curves.draw(POINTS, ("auc", "sensitivity", "specificity"))
    areas, *rates = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in areas.lines}
    assert list(drawn) == ["baseline", "random", "masked 0.2", "flip"]
    np.testing.assert_allclose(drawn["flip"], [[0.1, 0.801], [1.0, 0.81]])
    for band, line in zip(areas.collections, areas.lines, strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        middle = line.get_ydata()
        assert heights.min() == pytest.approx(middle.min() - 0.02)
        assert heights.max() == pytest.approx(middle.max() + 0.02)
    assert [[line.get_label() for line in axes.lines] for axes in rates] == [["baseline", "random", "masked 0.2"]] * 2


def test_a_table_has_a_row_a_start_and_says_what_is_not_run():
    head, *rows = curves.table(POINTS[:-1], lambda point: f"{point.scores['auc']['mean']:.3f}")
    assert head == ["begins with", "0.1 (10 images)", "1 (100 images)"]
    assert rows[0] == ["baseline", "0.501", "0.510"]
    assert rows[-1] == ["flip", "not run", "0.810"]


def test_classification_is_told_with_what_it_is_compared_with(tuned):
    study, output = tuned
    part = curves.told("T3", study, output)
    assert list(part.tables) == ["AUROC", "sensitivity", "specificity", "AUROC less that of baseline"]
    assert [row[0] for row in part.tables["AUROC"]] == ["begins with", "baseline", "random"]
    assert part.tables["AUROC less that of baseline"][1][1:] == ["", ""]
    mean = points("T3", study, output)[-1].scores["auc"]["mean"]
    assert part.tables["AUROC"][-1][-1].startswith(f"{mean:.3f} ± ")


def test_dice_over_epochs_is_that_of_every_run_on_validation(tuned):
    study, output = tuned
    part = curves.told("T5", study, output)
    assert list(part.tables) == ["Dice", "IoU"]
    last = points("T5", study, output)[-1]
    runs = [output / last.job.folder / "runs" / str(run) / "candidate-0/training.json" for run in range(2)]
    dice = np.array([[epoch["val_dice"] for epoch in read(path)["history"]] for path in runs])
    np.testing.assert_array_equal(curves.histories(last, study, output), dice)
    assert part.values[-1]["val_dice"]["mean"] == pytest.approx(dice.mean(axis=0))
    panels = [axes for axes in part.figure.axes if axes.has_data()]
    assert [axes.get_title() for axes in panels] == ["", "", "0.25 of the patients", "0.5 of the patients"]
    np.testing.assert_allclose(panels[-1].lines[0].get_ydata(), dice.mean(axis=0))
