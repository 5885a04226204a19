"""A grid that really runs: small, procedural, and not done twice."""

from __future__ import annotations

import json

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.evaluate import evaluate
from lim_gpu.progress import Reporter

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


def test_a_part_of_the_smoke_grid(output):
    plan = evaluate(["A"], output, smoke=True, plan=True, device="cpu", reporter=QUIET)
    assert not any(row["done"] for row in plan.values["jobs"])
    assert plan.values["pretrain_hours"] > 0
    assert plan.values["bytes"] > 2**20
    result = evaluate(["0", "A"], output, smoke=True, device="cpu", reporter=QUIET)
    assert result.failures == []
    rows = result.values["tables"]["A"]
    assert [(row["reduction"], row["budget"]) for row in rows] == [
        ("all", "equal epochs"),
        ("every-n 0.2", "equal epochs"),
        ("every-n 0.2", "equal steps"),
        ("every-n 0.1", "equal epochs"),
        ("every-n 0.1", "equal steps"),
    ]
    for row in rows:
        assert 0 <= row["tasks"]["planted"]["ours"]["auc"]["mean"] <= 1
        assert row["seconds"] > 0
    assert rows[2]["steps"] >= rows[0]["steps"] > rows[1]["steps"]
    text = (output / "evaluation.md").read_text()
    assert "no number here means anything" in text
    assert "| procedural all, swav |" in text
    assert json.loads((output / "evaluation.json").read_text())["failures"] == []


def test_a_second_run_does_nothing_again(output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".ckpt", ".csv", ".png")}
    again = evaluate(["A"], output, smoke=True, device="cpu", reporter=QUIET)
    assert again.failures == []
    assert all(row["seconds"] > 0 for row in again.values["tables"]["A"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(row["done"] for row in evaluate(["A"], output, smoke=True, plan=True, device="cpu").values["jobs"])


def test_a_failing_job_is_reported_and_the_rest_goes_on(tmp_path):
    (tmp_path / "grid.toml").write_text('[tasks]\nX = "missing"\nY = "missing-too"\n')
    result = evaluate(["0"], tmp_path / "out", config=tmp_path / "grid.toml", device="cpu", reporter=QUIET)
    assert len(result.failures) == 2
    assert "not run" in (tmp_path / "out" / "evaluation.md").read_text()


def test_contradictions(tmp_path):
    with pytest.raises(UsageError, match="unknown"):
        evaluate(["F"], tmp_path, smoke=True)
    with pytest.raises(UsageError, match="smoke"):
        evaluate(["A"], tmp_path)
