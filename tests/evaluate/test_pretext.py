"""Evaluation T2: its rows, and the paper beside ours."""

from __future__ import annotations

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.evaluate import evaluate
from lim_gpu.evaluate.pretext import table
from lim_gpu.evaluate.study import Study, Train, jobs, starts
from lim_gpu.evaluate.study_file import read_study
from lim_gpu.progress import Reporter

ROWS = ["next-slice", "masked 0.05", "masked 0.1", "masked 0.2", "masked 0.33", "masked 0.2 alone"]
ROWS += ["denoise", "rotation", "flip"]


def test_rows_are_the_papers_and_the_control(tmp_path):
    study = Study({"train": tmp_path}, pretrain={"preset": "tariq2024-paper", "epochs": 8})
    found = starts("T2", study)
    assert [row.name for row in found] == ROWS
    assert [row.epoch for row in found] == [None, 2, 4, 6, 8, *[None] * 4]
    trained = [job.run for job in jobs(("T2",), study) if isinstance(job, Train)]
    assert trained == ["next-slice", "masked", "masked-0.2", "denoise", "rotation", "flip"]


def test_the_paper_stands_beside_ours():
    scores = {"mse": {"network": {"mean": 0.5, "sd": 0.1}, "5 x 5 median": {"mean": 0.25, "sd": None}}}
    assert table({"denoise": {"scores": scores}})[1:] == [
        ["denoise", "MSE", "0.5000 ± 0.1000", "0.2500", "0.0029 ± 0.0011"]
    ]


def test_a_file_names_both_stores(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('[stores]\ntrain = "a"\nheld-out = "b"\n[pretrain]\nepochs = 4\n')
    study = read_study(path)
    assert study.stores == {"train": tmp_path / "a", "held-out": tmp_path / "b"}
    assert study.pretrain == {"preset": "tariq2024-paper", "epochs": 4}
    path.write_text('[stores]\ntrain = "a"\n')
    with pytest.raises(UsageError, match=r"grid.toml: evaluation T2 scores slices of other patients. Give held-out"):
        evaluate(["T2"], tmp_path / "out", config=path, device="cpu")


def test_papers_are_asked_for_one_by_one(tmp_path):
    with pytest.raises(UsageError, match="A and T2 are of two papers, each with a configuration of its own"):
        evaluate(["A", "T2"], tmp_path, smoke=True)
    with pytest.raises(UsageError, match="Give --config"):
        evaluate(["T2"], tmp_path)


def test_the_smoke_study_runs_once(tmp_path):
    asked = {"smoke": True, "device": "cpu", "reporter": Reporter(quiet=True)}
    plan = evaluate(["T2"], tmp_path, plan=True, **asked)
    assert [row["steps"] for row in plan.values["jobs"] if "steps" in row] == [20, *[24] * 5]
    assert plan.values["pretrain_hours"] > 0
    assert not list(tmp_path.iterdir())
    share = evaluate(["T2"], tmp_path, shard="1/2", **asked).values["jobs"]
    assert [job for job in share if job.startswith("pretrain")] == [
        f"pretrain/{n}" for n in ("masked", "denoise", "flip")
    ]
    assert len([job for job in share if job.startswith("analyse")]) == 6
    assert not (tmp_path / "pretext.json").exists()
    first = evaluate(["T2"], tmp_path, **asked)
    found = first.values["evaluations"]["T2"]
    assert list(found) == ROWS
    assert [found[name].get("share") for name in ROWS[:6]] == [None, 0.05, 0.1, 0.2, 0.33, 0.2]
    text, page = ((tmp_path / f"pretext.{kind}").read_text() for kind in ("md", "html"))
    assert "| next-slice | SSIM |" in text
    assert "no number here means anything" in text
    assert page.count("data:image/png") == len(ROWS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = evaluate(["T2"], tmp_path, **asked)
    assert again.values["unchanged"]
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed <= {"pretext-options.json", ".lock"}
    more = evaluate(["T2", "T6"], tmp_path, dry_run=True, **asked).values["jobs"]
    assert [row["done"] for row in more if not row["job"].startswith("finetune")] == [True] * 15
