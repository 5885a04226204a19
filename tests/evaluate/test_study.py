"""The configuration of T2 to T6, and the jobs that follow from it."""

from __future__ import annotations

import pickle
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate import evaluate
from lim_gpu.evaluate.clock import seed_of
from lim_gpu.evaluate.queue import share_of
from lim_gpu.evaluate.smoke_study import smoke_study
from lim_gpu.evaluate.study import NAMES, Score, Train, Tune, jobs, starts
from lim_gpu.evaluate.study_file import read_study
from lim_gpu.evaluate.study_work import StudyWorker
from lim_gpu.progress import Reporter
from lim_gpu.shard import Shard

FILE = """seeds = 2
[stores]
train = "slices"
held-out = "others"
[checkpoints]
SparK = "spark/last.ckpt"
[finetune]
runs = 3
epochs = 9
[classification]
data = "slices"
labels = "train.csv"
target = "pe_present_on_image"
window = "100,700"
fractions = [1.0, 0.01]
[segmentation]
data = "covid-infection"
epochs = 4
[attributes]
data = "slices"
labels = "people/labels.csv"
targets = ["sex", "age"]
"""


@pytest.fixture
def written(tmp_path):
    def write(text=FILE):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_is_read_with_paths_beside_it(written, tmp_path):
    study = read_study(written())
    task = study.tasks["classification"]
    assert study.checkpoints == {"SparK": tmp_path / "spark/last.ckpt"}
    assert task.options == {
        "choose": "auc",
        "runs": 3,
        "epochs": 9,
        "data": tmp_path / "slices",
        "labels": tmp_path / "train.csv",
        "window": "100,700",
    }
    assert (task.targets, task.fractions) == (("pe_present_on_image",), (0.01, 1.0))
    assert study.tasks["segmentation"].options["epochs"] == 4
    assert study.tasks["attributes"].targets == ("sex", "age")
    assert study.baseline == {"backbone": "timm:legacy_seresnext50_32x4d", "init": "imagenet"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[stores]\nwhole = 'a'", r"\[stores\] whole is unknown. Give train, held-out"),
        ("seeds = 0", "seeds 0 is no number"),
        ("mystery = 1", "mystery is unknown"),
        ("[segmentation]\nepochs = 3", r"\[segmentation\] names no data"),
        ("[segmentation]\ndata = 'a'\ntarget = 'b'", r"\[segmentation\] target is unknown"),
        ("[attributes]\ndata = 'a'", r"\[attributes\] targets \(\) is no list"),
        ("[classification]\ndata = 'a'\nfractions = [0.1, 2]", "give 0 < F <= 1 each"),
        ("[classification]\ndata = 'a'\nepoch = 2", "epoch is unknown"),
        ("[checkpoints]\n'../x' = 'a'", "no name for a folder"),
    ],
)
def test_a_wrong_file_is_one_line(written, text, cause):
    with pytest.raises((InputError, UsageError), match=cause) as raised:
        read_study(written(text))
    assert "grid.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_job_comes_once_behind_what_it_needs_and_seed_after_seed(written):
    todo = jobs(NAMES, read_study(written()))
    assert len(todo) == len(set(todo)) == len({job.folder for job in todo})
    for place, job in enumerate(todo):
        assert all(todo.index(needed) < place for needed in job.needs), job
    assert [seed_of(job) for job in todo] == sorted(seed_of(job) for job in todo)
    assert sum(isinstance(job, Train) for job in todo) == 2 * 6
    assert sum(isinstance(job, Score) for job in todo) == 9


def test_shares_are_all_of_it_once(written):
    todo = jobs(NAMES, read_study(written()))
    shares = [share_of(todo, Shard(i, 3)) for i in range(3)]
    assert sorted((job for share in shares for job in share), key=todo.index) == todo
    for share in shares:
        assert all(needed in share for job in share for needed in job.needs)


def test_what_each_evaluation_compares(written):
    study = read_study(written())
    names = {name: [start.name for start in starts(name, study)] for name in NAMES}
    pretext = ["next-slice", "masked 0.2", "denoise", "rotation", "flip", "SparK"]
    assert names["T3"] == ["baseline", "random", *pretext]
    assert names["T5"] == names["T6"] == ["random", *pretext]
    masked = [f"masked {share}" for share in (0.05, 0.1, 0.2, 0.33)]
    assert names["T4"] == ["random", *masked, "masked 0.2 alone"]
    frozen = [job for job in jobs(("T6",), study) if isinstance(job, Tune) and not job.frozen]
    assert [job.folder for job in frozen] == [f"finetune/attributes-{target}/random/1" for target in ("sex", "age")]
    alone = replace(study, stores={})
    assert [start.name for start in starts("T5", alone)] == ["random", "SparK"]
    with pytest.raises(UsageError, match="evaluation T4 trains pretext tasks"):
        starts("T4", alone)


def test_what_is_missing_is_named_before_anything_runs(written, tmp_path):
    asked = {"config": written("[stores]\ntrain = 'a'\nheld-out = 'b'\n"), "device": "cpu"}
    with pytest.raises(UsageError, match=r"evaluation T5 needs \[segmentation\]"):
        evaluate(["T5"], tmp_path / "out", **asked)
    with pytest.raises(InputError, match="no such folder. Make a store"):
        evaluate(["T2"], tmp_path / "out", **asked)
    written("[checkpoints]\nours = 'last.ckpt'\n[segmentation]\ndata = '.'\n")
    with pytest.raises(InputError, match=r"last\.ckpt: does not exist"):
        evaluate(["T5"], tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "cause"), [("", "Leave its rows out"), ("runs = 1", "Leave its rows out")])
def test_a_table_that_cannot_be_split_is_refused_before_anything_runs(written, tmp_path, options, cause):
    rows = [f"{name}.png,{name[0]}" for name in ("a1", "a2", "b1", "b2")]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    for row in rows:
        (tmp_path / row.split(",")[0]).write_text(row)
    asked = {"config": written(f"[classification]\ndata = '.'\n{options}\n"), "device": "cpu"}
    with pytest.raises(InputError, match=cause):
        evaluate(["T3"], tmp_path / "out", **asked)
    with pytest.raises(InputError, match=cause):
        evaluate(["T3"], tmp_path / "out", dry_run=True, **asked)
    assert not (tmp_path / "out").exists()


def test_the_smoke_study_has_all_of_it(tmp_path):
    todo = jobs(NAMES, smoke_study(tmp_path))
    assert {job.task for job in todo if isinstance(job, Tune)} == {"classification", "segmentation", "attributes"}
    plan = evaluate(NAMES, tmp_path / "out", smoke=True, dry_run=True, device="cpu")
    assert [row["job"] for row in plan.values["jobs"]] == [job.folder for job in todo]
    assert not (tmp_path / "out").exists()


def test_the_files_of_the_docs_and_of_help_are_read(written):
    from click.testing import CliRunner

    from lim_gpu.cli import cli

    page = (Path(__file__).parents[2] / "docs/evaluations.md").read_text()
    shown, real = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert jobs(("T3", "T4", "T5"), read_study(written(real)))
    told = CliRunner().invoke(cli, ["evaluate", "--help"]).output.split("study.toml:\n")[1].split("\n\n")[0]
    for text in (shown, textwrap.dedent(told)):
        study = read_study(written(text))
        assert set(study.tasks) == {"classification", "segmentation", "attributes"}
        assert list(study.checkpoints) == ["SparK"]
        assert jobs(NAMES, study)


def test_what_does_the_jobs_goes_to_other_processes_with_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    worker = StudyWorker(smoke_study(Path("data")), Path("out"), "auto", 3, Reporter(quiet=True))
    sent = pickle.loads(pickle.dumps(worker.at("cuda")))
    assert (sent.output, sent.device, sent.seed) == (tmp_path / "out", "cuda", 3)
    paths = [*sent.study.stores.values(), *(task.options["data"] for task in sent.study.tasks.values())]
    assert all(path.is_relative_to(tmp_path) for path in paths)
    assert jobs(NAMES, sent.study) == jobs(NAMES, worker.study)
