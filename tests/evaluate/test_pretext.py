"""Evaluation T2: its rows, the paper beside ours, and that the smoke grid runs and is not run twice."""

from __future__ import annotations

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.evaluate import evaluate
from lim_gpu.evaluate.grid import Grid
from lim_gpu.evaluate.pretext import evaluate_pretext, read_stores, rows, table
from lim_gpu.progress import Reporter

ROWS = ["next-slice", "masked 0.05", "masked 0.1", "masked 0.2", "masked 0.33", "masked 0.2 alone"]
ROWS += ["denoise", "rotation", "flip"]


def test_rows_are_the_papers_and_the_control():
    found = rows(Grid({}, (), pretrain={"preset": "tariq2024-paper", "epochs": 8}))
    assert [row.name for row in found] == ROWS
    assert [row.epoch for row in found] == [None, 2, 4, 6, 8, *[None] * 4]


def test_the_paper_stands_beside_ours():
    scores = {"mse": {"network": {"mean": 0.5, "sd": 0.1}, "5 x 5 median": {"mean": 0.25, "sd": None}}}
    assert table({"denoise": {"scores": scores}})[1:] == [
        ["denoise", "MSE", "0.5000 ± 0.1000", "0.2500", "0.0029 ± 0.0011"]
    ]


def test_a_file_names_both_stores(tmp_path):
    (tmp_path / "grid.toml").write_text('[stores]\ntrain = "a"\nheld-out = "b"\n[pretrain]\nepochs = 4\n')
    grid = read_stores(tmp_path / "grid.toml")
    assert grid.stores == {"train": tmp_path / "a", "held-out": tmp_path / "b"}
    assert grid.pretrain == {"preset": "tariq2024-paper", "epochs": 4}
    (tmp_path / "grid.toml").write_text('[stores]\ntrain = "a"\n')
    with pytest.raises(UsageError, match=r"grid.toml: give \[stores\] with train and held-out"):
        read_stores(tmp_path / "grid.toml")


def test_it_is_asked_for_alone(tmp_path):
    with pytest.raises(UsageError, match="T2 has stores of its own. Give it alone"):
        evaluate(["A", "T2"], tmp_path, smoke=True)
    with pytest.raises(UsageError, match="give --config grid.toml or --preset smoke"):
        evaluate_pretext(tmp_path)


def test_the_smoke_grid(tmp_path):
    asked = {"smoke": True, "device": "cpu", "reporter": Reporter(quiet=True)}
    plan = evaluate_pretext(tmp_path, plan=True, **asked)
    assert len(plan.values["runs"]) == 6
    assert not (tmp_path / "pretrain").exists()
    first = evaluate_pretext(tmp_path, **asked)
    assert list(first.values["rows"]) == ROWS
    assert [first.values["rows"][name].get("share") for name in ROWS[:6]] == [None, 0.05, 0.1, 0.2, 0.33, 0.2]
    text = (tmp_path / "pretext.md").read_text()
    assert "| next-slice | SSIM |" in text
    assert "no number here means anything" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    again = evaluate_pretext(tmp_path, **asked)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {name: row["scores"] for name, row in again.values["rows"].items()} == {
        name: row["scores"] for name, row in first.values["rows"].items()
    }
