"""The demonstration: every method on procedural CT, a table, a picture, and nothing done twice."""

from __future__ import annotations

from functools import partial

import pytest
from click.testing import CliRunner
from PIL import Image

from lim_gpu.cli import cli
from lim_gpu.cli.demo import RUNS, _angiograms, run_demo
from lim_gpu.errors import LimGpuError
from lim_gpu.labels.table import read_labels
from lim_gpu.phantom import write_angiograms
from lim_gpu.progress import Reporter
from lim_gpu.selection import Selection


def test_the_demo_runs_every_method_and_nothing_twice(tmp_path, capsys):
    result = run_demo(tmp_path, 0, "cpu", Reporter(quiet=True))
    selections = sorted((tmp_path / "selections").glob("*.csv"))
    assert len(selections) == len(RUNS)
    assert {Selection.load(path).record["method"] for path in selections} == {method for method, _options in RUNS}
    assert [line.split()[0] for line in result.lines[1:10]] == [method for method, _options in RUNS]
    assert {"abdomen", "chest-a", "chest-b", "head", "all"} <= set(result.lines[0].split())
    assert Image.open(tmp_path / "matrix.png").size[0] > 800
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix in (".csv", ".h5", ".dcm")}
    run_demo(tmp_path, 0, "cpu", Reporter())
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert capsys.readouterr().err.count("unchanged") == len(RUNS)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimGpuError, match=r"file/demo: cannot be written: .*file is no folder\. Choose another place$"):
        run_demo(tmp_path / "file" / "demo", 0, "cpu", Reporter(quiet=True))


def test_angiograms_come_with_labels_that_finetune_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("lim_gpu.labels.angiograms.write_angiograms", partial(write_angiograms, shape=(32, 64, 64)))
    lines = _angiograms(tmp_path, 0, Reporter(quiet=True))
    for finding in ("emboli", "nodules"):
        table = read_labels(tmp_path / finding / "labels.csv", tmp_path / "angiograms", None, Reporter(quiet=True))
        assert table.classes == ("0", "1")
        assert any(str(tmp_path / finding) in line for line in lines)
    plan = lines[-1].split()[1:]
    assert plan[:2] == ["lim-gpu", "finetune"]
    result = CliRunner().invoke(cli, [*plan[1:-1], str(tmp_path / "run"), "--dry-run", "--device", "cpu"])
    assert result.exit_code == 0, result.output
