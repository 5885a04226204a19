"""A grid that really runs: small, procedural, and not done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate import evaluate, smoke
from lim_gpu.evaluate.estimate import _slices, _threshold_share, measure
from lim_gpu.evaluate.grid import CONTROL, EVERY, UNTRAINED, Reduce, analyses
from lim_gpu.evaluate.smoke import smoke_grid
from lim_gpu.evaluate.wolf2024 import PRETRAIN
from lim_gpu.evaluate.work import Worker
from lim_gpu.pretrain.config import resolve
from lim_gpu.progress import Reporter
from stores import make_store

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Output, plan and result of a part of the smoke grid, with a smaller network."""
    output = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        for options in (smoke.PRETRAIN, smoke.FINETUNE):
            patch.setitem(options, "backbone", "timm:test_resnet")
        plan = evaluate(["A"], output, smoke=True, plan=True, device="cpu", reporter=QUIET)
        yield output, plan, evaluate(["0", "A"], output, smoke=True, device="cpu", reporter=QUIET)


@pytest.fixture
def output(run):
    return run[0]


def test_a_part_of_the_smoke_grid(run):
    output, plan, result = run
    assert not any(row["done"] for row in plan.values["jobs"])
    assert plan.values["pretrain_hours"] > 0
    assert plan.values["bytes"] > 2**20
    assert plan.values["network_bytes"] == 2 * plan.values["kept_network_bytes"] > 2**16  # two runs; all slices' first
    assert any("of networks at a time" in line for line in plan.lines)
    assert not result.skipped
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


def test_of_fine_tuned_networks_the_one_stays_that_an_analysis_looks_at(output):
    tuned = output / "finetune/procedural/all/swav/planted"
    assert list(output.glob("finetune/**/*.ckpt")) == [tuned / "runs/0/candidate-0/best.ckpt"]
    worker = Worker(smoke_grid(output / "data"), output, "cpu", 0, QUIET)
    analysis = next(one for one in analyses(worker.grid) if one.kind == "tsne")
    worker.do(analysis)
    assert (output / analysis.folder / "tsne.png").exists()


def test_a_second_run_does_nothing_again(output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".ckpt", ".csv", ".png")}
    again = evaluate(["A"], output, smoke=True, device="cpu", reporter=QUIET)
    assert not again.skipped
    assert not again.values["unchanged"]  # 0 and A stood in the tables
    assert all(row["seconds"] > 0 for row in again.values["tables"]["A"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(row["done"] for row in evaluate(["A"], output, smoke=True, plan=True, device="cpu").values["jobs"])
    third = evaluate(["A"], output, smoke=True, device="cpu", reporter=QUIET)
    assert third.values["unchanged"]
    assert third.lines[0] == f"unchanged: {output / 'evaluation.md'}, evaluation.html, evaluation.json"


def test_other_options_are_refused_at_once_and_replace_where_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    asked = {"config": tmp_path / "grid.toml", "device": "cpu", "reporter": QUIET}
    done = []
    monkeypatch.setattr(Worker, "do", lambda worker, job: done.append((job.folder, worker.overwrite)))

    def runs(epochs: int) -> str:
        return f'[tasks]\nX = "x"\n[finetune]\nepochs = {epochs}\n'

    (tmp_path / "grid.toml").write_text(runs(3))
    evaluate(["0"], tmp_path / "out", **asked)
    (tmp_path / "grid.toml").write_text(runs(4))
    for way in ({}, {"dry_run": True}):
        with pytest.raises(UsageError, match=r"options\.json: exists and was made otherwise\. Give --overwrite"):
            evaluate(["0"], tmp_path / "out", **asked, **way)
    evaluate(["0"], tmp_path / "out", **asked, overwrite=True)
    evaluate(["0"], tmp_path / "out", **asked)
    folders = ("finetune/none/X", "finetune/none-calibrated/X")
    assert done == [(folder, overwrite) for overwrite in (False, True, False) for folder in folders]


def test_a_dry_run_counts_steps_and_measures_none(output, tmp_path):
    values = evaluate(["A"], output, smoke=True, dry_run=True, device="cpu").values
    assert "pretrain_hours" not in values
    todo = evaluate(["B"], output, smoke=True, dry_run=True, device="cpu")
    new = [row for row in todo.values["jobs"] if row["job"].startswith("pretrain") and not row["done"]]
    assert len(new) == 8  # SSIM, MI, HASH and random, each with equal epochs and equal steps
    assert all(row["steps"] > 0 for row in new)
    assert not any("hours" in row for row in todo.values["jobs"])
    unmade = evaluate(["A"], tmp_path / "new", smoke=True, dry_run=True, device="cpu")
    assert unmade.lines[-1] == "steps: once its data are made"
    assert list(tmp_path.iterdir()) == []


def test_the_page_and_the_picture_of_time(output):
    rows = evaluate(["D"], output / "none", smoke=True, plan=True, device="cpu").values["jobs"]
    assert {row["job"].split("/")[0] for row in rows} == {"reduce", "pretrain", "finetune", "analyse"}
    page = (output / "evaluation.html").read_text()
    assert "A: Does reduction help?" in page
    assert "http" not in page
    notes = json.loads((output / "evaluation.json").read_text())["caveats"]
    text = (output / "evaluation.md").read_text()
    assert [text.count(note) for note in notes] == [1] * len(notes)


def test_a_plan_takes_what_reductions_kept_once_they_have_run(output):
    grid = smoke_grid(output / "data")
    grid = replace(grid, pretrain=PRETRAIN | grid.pretrain)
    worker = Worker(grid, output, "cpu", 0, QUIET)
    assert worker.kept(Reduce("procedural", "every-n 0.2")) == (20, 96)
    assert _slices(Reduce("procedural", "every-n 0.2"), worker) == (20, False)
    assert _slices(Reduce("procedural", "hash 12"), worker)[1]  # not run: as LIDC in the paper
    assert _slices(Reduce("procedural", "ssim 0.1"), worker) == (3 + 3 + 3 + 2, False)  # shares are rounded up
    assert _threshold_share(Reduce("PET-CT", "hash 6")) == 48718 / 541439
    for control in (CONTROL, EVERY):
        assert _slices(Reduce("procedural", control, 1), worker) == _slices(Reduce("procedural", "hash 6"), worker)
    assert _threshold_share(Reduce("PET-CT", "deepnet 0.1")) is None


def test_a_step_is_measured_of_a_method_that_looks_at_the_store(tmp_path):
    settings = {
        "backbone": "resnet18",
        "batch_size": 40,
        "moco.size": 32,
        "moco.mask_near_mm": 5,
        "moco.mask_hash_bits": 6,
    }
    config = resolve("moco", overrides=settings)  # a batch of more slices than a volume has
    seconds, size = measure(config, make_store(tmp_path), "cpu")
    assert seconds > 0
    assert size > 2**20


def test_a_failing_job_is_reported_and_the_rest_goes_on(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
    (tmp_path / "grid.toml").write_text('[tasks]\nX = "x"\nY = "y"\n')
    result = evaluate(["0"], tmp_path / "out", config=tmp_path / "grid.toml", device="cpu", reporter=QUIET)
    assert len(result.values["failures"]) == 2 * len(UNTRAINED)
    assert "not run" in (tmp_path / "out" / "evaluation.md").read_text()
    assert "not done" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_plan_names_what_cannot_run_and_writes_nothing(output, tmp_path):
    plan = evaluate(["A"], tmp_path / "new", smoke=True, plan=True, device="cpu", reporter=QUIET)
    assert not plan.skipped
    assert not (tmp_path / "new").exists()
    assert all(row["steps"] > 0 for row in plan.values["jobs"] if "steps" in row)
    data = output / "data"
    large = f'[stores]\nS = "{data / "slices"}"\n[tasks]\nT = "{data / "task"}"\n[pretrain]\nbatch_size = 97\n'
    (tmp_path / "grid.toml").write_text(large)
    plan = evaluate(["A"], tmp_path / "new", config=tmp_path / "grid.toml", plan=True, device="cpu", reporter=QUIET)
    assert plan.skipped
    assert plan.values["refused"] == [f"pretrain/S/{name}/swav" for name in ("all", "every-n-0.2", "every-n-0.1")]
    assert "cannot run: its 96 slices are less than a batch of 97" in "\n".join(plan.lines)


@pytest.mark.parametrize("plan", [False, True])
def test_data_that_are_not_there_are_named_before_anything_runs(tmp_path, plan):
    (tmp_path / "x").mkdir()
    for lines, match in (('X = "missing"', "data of task X"), ('X = "x"\n[stores]\nS = "no-store"', "no-store")):
        (tmp_path / "grid.toml").write_text(f"[tasks]\n{lines}\n")
        with pytest.raises(InputError, match=match):
            evaluate(["A" if "no-store" in lines else "0"], tmp_path / "out", config=tmp_path / "grid.toml", plan=plan)
    assert not (tmp_path / "out").exists()


def test_contradictions(tmp_path):
    with pytest.raises(UsageError, match="unknown"):
        evaluate(["G"], tmp_path, smoke=True)
    with pytest.raises(UsageError, match="smoke"):
        evaluate(["A"], tmp_path)
