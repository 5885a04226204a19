"""Results beside each other: run by run, and only of the same data, seeds and splits."""

from __future__ import annotations

import numpy as np
import pytest

from finetunings import QUIET, read, request
from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.results import compare, positive_lines, result_lines
from lim_gpu.finetune.run import finetune
from lim_gpu.labelled.table import Table


def test_two_runs_are_compared_seed_by_seed(make_folder, two_classes, weights, tmp_path):
    folder = make_folder(two_classes)
    finetune(request(folder), tmp_path / "a", "cpu", QUIET)
    outcome = finetune(request(folder, weights[:1]), tmp_path / "b", "cpu", QUIET, against=tmp_path / "a")
    found = outcome.values["comparison"]
    a, b = (read(tmp_path / name / "results.json") for name in "ab")
    for name in ("auc", "f1", "acc"):
        expected = [x - y for x, y in zip(b[name]["runs"], a[name]["runs"], strict=True)]
        assert found[name]["runs"] == pytest.approx(expected)
        assert found[name]["interval"][0] <= found[name]["interval"][1]
    assert read(tmp_path / "b/comparison.json") == found
    assert any("less" in line for line in outcome.lines)
    assert compare(tmp_path / "a", tmp_path / "a")["acc"]["mean"] == 0
    finetune(request(folder, seed=3), tmp_path / "c", "cpu", QUIET)
    with pytest.raises(UsageError, match="differ in their seeds"):
        compare(tmp_path / "a", tmp_path / "c")
    with pytest.raises(InputError, match="no finished fine-tuning"):
        finetune(request(folder), tmp_path / "a", "cpu", QUIET, against=tmp_path / "nowhere")


def test_a_damaged_part_of_a_finished_run_is_one_line(make_folder, two_classes, tmp_path):
    finetune(request(make_folder(two_classes), epochs=1), tmp_path / "a", "cpu", QUIET)
    (tmp_path / "a/runs/1/test.json").write_text("{}")
    with pytest.raises(InputError, match=r"a: damaged \(KeyError\). Run it again with --overwrite"):
        compare(tmp_path / "a", tmp_path / "a")


def test_people_are_told_which_class_the_scores_are_of(tmp_path):
    table = Table(tmp_path, ("a", "b"), np.array([0, 1]), ("ill", "well"))
    asked = request(tmp_path)
    told = "positive, whose AUC, F1, sensitivity and ROC these are: class"
    assert positive_lines(asked, table) == [f"{told} well, the second by name (--positive ill for the other)"]
    assert positive_lines(request(tmp_path, positive="ill"), table) == [f"{told} ill"]
    score = {"mean": 0.5, "sd": None, "interval": None}
    results = {"runs": [{}], "start": ["random"], "f1_is": "F1 of class well."} | dict.fromkeys(
        ("auc", "f1", "acc"), score
    )
    assert result_lines(results, tmp_path, False)[0] == f"random: 1 run, F1 of class well. -> {tmp_path}"
    assert result_lines(results, tmp_path, True)[:2] == [f"unchanged: {tmp_path}", "AUC         0.5000"]
