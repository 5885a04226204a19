"""Evaluation F: what is compared, at what strength, and what its table and picture say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.evaluate.equal import configured
from lim_gpu.evaluate.grid import Finetune, Grid, Pretrain, Reduce, Task, jobs, pretrainings
from lim_gpu.evaluate.page import write_evaluation
from lim_gpu.evaluate.strength import STRENGTH_PICTURE, strength_picture
from lim_gpu.evaluate.table import cells, markdown, table
from lim_gpu.evaluate.wolf2024 import PRETRAIN
from lim_gpu.selection import FORMAT, VERSION

GRID = Grid(
    {"PET-CT": Path("p"), "LIDC": Path("l")},
    (Task("COVID-19", Path("c")),),
    pretrain=PRETRAIN | {"preset": "recommended"},
    strengths=(1.0, 1.5),
    keeps=(0.1, 0.3),
)
KEPT = {"all": 1000, "hash 0.3": 300, "hash 0.1": 100}


def test_every_share_is_trained_on_at_every_strength_with_as_many_steps():
    arms = pretrainings("F", GRID)
    assert [(arm.strength, arm.reduce.name) for arm in arms] == [(s, name) for s in (1.0, 1.5) for name in KEPT]
    assert {arm.reduce.store for arm in arms} == {"LIDC"}
    assert [arm.budget for arm in arms] == 2 * ["both", "steps", "steps"]
    assert arms[0] in pretrainings("D", Grid(GRID.stores, GRID.tasks, budgets=("epochs", "steps")))
    assert arms[-1].folder == "pretrain/LIDC/hash-0.1/swav-equal-steps-strength-1.5"
    assert Reduce("LIDC", "hash 6") in jobs(("F",), GRID)  # whose slices say how long a queue may be
    counts = {"all": 24_000, "hash 6": 6400, "hash 0.3": 7200, "hash 0.1": 2560}
    found = [configured(GRID, arm, 0, counts.__getitem__)[0] for arm in arms]
    assert [config.strength for config in found] == [1, 1, 1, 1.5, 1.5, 1.5]
    assert found[-1].swav.brightness == pytest.approx(1.5 * found[0].swav.brightness)
    steps = [c.total_steps(counts[arm.reduce.name]) for c, arm in zip(found, arms, strict=True)]
    assert all(steps[0] <= count < 1.01 * steps[0] for count in steps)


def test_a_method_without_random_views_is_refused():
    with pytest.raises(UsageError, match="evaluation F scales views, of which spark has none. Give method = 'swav'"):
        jobs(("F",), Grid(GRID.stores, GRID.tasks, method="spark"))


def write(output: Path, auc: dict[Pretrain, float]) -> None:
    """What the jobs leave, of invented scores."""
    for arm, mean in auc.items():
        kept = {"format": FORMAT, "version": VERSION, "store": {"fingerprint": "x"}}
        scores = {score: {"mean": mean, "sd": 0.01} for score in ("auc", "f1", "acc")}
        for folder, name, values in (
            (arm.reduce.folder, "selection.json", kept | {"counts": {"kept": KEPT[arm.reduce.name]}}),
            (arm.folder, "job.json", {"steps": 10, "seconds": 3.0, "device": "cpu"}),
            (Finetune(arm, GRID.tasks[0]).folder, "results.json", scores),
        ):
            (output / folder).mkdir(parents=True, exist_ok=True)
            (output / folder / name).write_text(json.dumps(values))


def test_the_table_names_the_strength_and_the_picture_has_a_line_for_each(tmp_path):
    arms = pretrainings("F", GRID)
    scores = dict(zip(arms, (0.80, 0.78, 0.70, 0.82, 0.81, 0.79), strict=True))
    write(tmp_path, {arm: score for arm, score in scores.items() if arm != arms[1]})  # one is not done
    rows = table("F", GRID, tmp_path)
    text = cells(rows, GRID)
    assert [line[0] for line in text[1::3]] == ["LIDC all, swav", "LIDC all, swav, strength 1.5"]
    assert text[6][0] == "LIDC hash 0.1, swav, strength 1.5, equal steps"
    assert text[3][4] == "0.700 ± 0.010 (0.825 ± 0.007)"
    assert text[6][4] == "0.790 ± 0.010"  # the paper has no such strength
    figure = strength_picture(rows, GRID)
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in figure.axes[0].containers}
    assert lines == {
        "strength 1": [pytest.approx([0.1, 0.70]), pytest.approx([1.0, 0.80])],
        "strength 1.5": [pytest.approx(point) for point in ([0.1, 0.79], [0.3, 0.81], [1.0, 0.82])],
    }
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["10%", "30%", "100%"]
    assert f"({STRENGTH_PICTURE})" in markdown({"F": rows}, GRID, [], [])
    write_evaluation(tmp_path, {"F": rows}, GRID, [], {"caveats": [], "failures": [], "versions": {}})
    assert (tmp_path / STRENGTH_PICTURE).exists()
    page = (tmp_path / "evaluation.html").read_text()
    assert "F: Strength of the augmentation against reduction" in page
    assert page.count("<svg") == 1


def test_the_difference_to_all_is_within_a_strength(tmp_path):
    several = Grid(GRID.stores, GRID.tasks, seeds=3, strengths=(1.5,), keeps=(0.1,))
    whole, reduced = (pretrainings("F", several)[first : first + 3] for first in (0, 3))
    write(tmp_path, dict(zip(whole + reduced, (0.8, 0.7, 0.9, 0.83, 0.72, 0.93), strict=True)))
    assert table("F", several, tmp_path)[1]["tasks"]["COVID-19"]["less_all"]["mean"] == pytest.approx(0.08 / 3)
