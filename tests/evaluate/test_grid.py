"""The grid of jobs: what is asked for, in which order, and each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate.config import read_grid
from lim_gpu.evaluate.grid import (
    CONTROL,
    EVALUATIONS,
    Analysis,
    Finetune,
    Grid,
    Pretrain,
    Reduce,
    Task,
    jobs,
    pretrainings,
)
from lim_gpu.evaluate.table import published, table

GRID = Grid(
    {"PET-CT": Path("p"), "LIDC": Path("l")},
    (Task("COVID-19", Path("c")), Task("Brain", Path("b"), 5)),
    Path("weights.pth"),
    ("epochs", "steps"),
)


def test_a_file_is_read_with_paths_beside_it(tmp_path):
    (tmp_path / "grid.toml").write_text(
        'budgets = ["epochs", "steps"]\nweights = "w.pth"\nstrengths = [1, 2.5]\n[stores]\nLIDC = "lidc"\n'
        '[tasks]\nCOVID-19 = "covid"\nBrain = { data = "head", folds = 5 }\n[pretrain]\nepochs = 3\n'
    )
    grid = read_grid(tmp_path / "grid.toml")
    assert grid.stores == {"LIDC": tmp_path / "lidc"}
    assert grid.tasks[1] == Task("Brain", tmp_path / "head", 5)
    assert grid.weights == tmp_path / "w.pth"
    assert grid.pretrain == {"epochs": 3}
    assert (grid.strengths, grid.keeps) == ((1.0, 2.5), (0.1, 0.3))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[stores", "not TOML"),
        ("[stores]\nA = 'a'", "names no data set"),
        ("[tasks]\nA = 'a'\n[mystery]", "mystery is unknown"),
        ("budgets = ['hours']\n[tasks]\nA = 'a'", "budgets"),
        ("seeds = 0\n[tasks]\nA = 'a'", "seeds 0 is no number"),
        ("strengths = [0]\n[tasks]\nA = 'a'", "strengths .* above 0 and below 10"),
        ("keeps = ['0.1']\n[tasks]\nA = 'a'", "keeps .* above 0 and below 1"),
        ("keeps = [0.1, 1]\n[tasks]\nA = 'a'", "keeps"),
        ("[tasks]\n'../x' = 'a'", "no name for a folder"),
        ("[tasks]\nA = 3", "task A is no data set. Give a path"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, cause):
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises((InputError, UsageError), match=cause) as raised:
        read_grid(tmp_path / "grid.toml")
    assert "grid.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_job_comes_once_and_after_what_it_needs():
    todo = jobs(EVALUATIONS, GRID)
    assert len(todo) == len(set(todo)) == len({job.folder for job in todo})
    for place, job in enumerate(todo):
        assert all(todo.index(needed) < place for needed in job.needs), job


def test_evaluations_share_their_jobs():
    alone = sum(len(jobs((name,), GRID)) for name in EVALUATIONS)
    assert len(jobs(EVALUATIONS, GRID)) < alone
    assert Pretrain(Reduce("LIDC", "hash 6"), "swav") in jobs(("C",), GRID)
    assert Pretrain(Reduce("LIDC", "hash 6"), "swav") in jobs(("D",), GRID)


def test_the_rows_of_the_paper():
    names = {name: [p.reduce.name for p in pretrainings(name, GRID) if p.budget != "steps"] for name in "ABCDE"}
    assert names["A"] == ["all", "every-n 0.2", "every-n 0.1"] * 2
    assert names["B"][:6] == ["every-n 0.1", "ssim 0.1", "mi 0.1", "deepnet 0.1", "hash 0.1", "random 0.1"]
    assert names["C"] == ["hash 3", "hash 6", "hash 12", CONTROL] * 2
    assert names["E"] == ["all", "hash 6"] * 3
    assert {p.reduce.store for p in pretrainings("E", GRID)} == {"LIDC"}
    assert "deepnet 0.1" not in [p.reduce.name for p in pretrainings("B", Grid(GRID.stores, GRID.tasks))]
    kinds = [job.kind for job in jobs(("D",), GRID) if isinstance(job, Analysis)]
    assert kinds.count("cka") == 6
    assert kinds.count("gradcam") == kinds.count("tsne") == 4


def test_options_of_the_reductions():
    assert Reduce("s", "hash 6").options() == {"method": "hash", "threshold": 6}
    assert Reduce("s", "hash 0.1").options() == {"method": "hash", "keep": 0.1}
    assert Reduce("s", "all").options() == {"method": "all"}
    assert Reduce("s", CONTROL).options() == {"method": "random"}


def test_the_paper_stands_beside(tmp_path):
    row, calibrated = table("0", GRID, tmp_path)
    assert calibrated["init"] == "calibrated"
    assert calibrated["tasks"]["COVID-19"]["paper"] is None
    assert row["tasks"]["COVID-19"] == {
        "ours": None,
        "paper": {"table": "Table 3", "auc": [0.737, 0.033], "f1": [0.679, 0.033]},
        "less_all": None,
    }
    rows = {(r["store"], r["reduction"], r["budget"]): r for r in table("C", GRID, tmp_path)}
    assert rows["LIDC", "hash 6", "equal epochs"]["tasks"]["Brain"]["paper"]["auc"] == [0.84, 0.016]
    assert rows["LIDC", CONTROL, "equal epochs"]["tasks"]["Brain"]["paper"] is None
    rows = table("E", GRID, tmp_path)
    assert {r["method"] for r in rows} == {"swav", "moco", "spark"}


def test_published_numbers_are_scores():
    values = published()
    scores = [pair for row in values["rows"] for task in row["tasks"].values() for pair in task.values()]
    assert len(scores) > 90
    assert all(0 < mean < 1 and (sd is None or 0 < sd < 0.4) for mean, sd in scores)
    seen = {(row["dataset"], row["reduction"], row["method"]) for row in values["rows"]}
    assert len(seen) == len(values["rows"])


def test_pretraining_needs_a_store():
    with pytest.raises(UsageError, match=r"\[stores\]"):
        jobs(("A",), Grid({}, GRID.tasks))
    assert all(isinstance(job, Finetune) for job in jobs(("0",), Grid({}, GRID.tasks)))
