"""Jobs shared out: among shards, and among the GPUs of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gpu_jobs
from lim_gpu.errors import InputError, UsageError
from lim_gpu.evaluate import evaluate
from lim_gpu.evaluate.clock import seed_of
from lim_gpu.evaluate.devices import do_on_gpus, gpus_of
from lim_gpu.evaluate.grid import EVALUATIONS, Analysis, Finetune, Grid, Pretrain, Reduce, Task, jobs
from lim_gpu.evaluate.queue import share_of
from lim_gpu.evaluate.wolf2024 import Wolf2024
from lim_gpu.evaluate.work import Worker
from lim_gpu.files import locked
from lim_gpu.progress import Reporter
from lim_gpu.shard import Shard

QUIET = Reporter(quiet=True)
GRID = Grid({"LIDC": Path("a"), "PET": Path("b")}, (Task("COVID", Path("c")),), budgets=("epochs", "steps"))
WANTED = jobs(EVALUATIONS, GRID)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_all_trainings_once_and_have_what_they_need(count):
    shares = [share_of(WANTED, Shard(i, count)) for i in range(count)]
    trainings = [job for share in shares for job in share if not isinstance(job, Reduce)]
    assert len(set(trainings)) == len(trainings)
    assert set(trainings) == {job for job in WANTED if not isinstance(job, Reduce | Analysis)}
    for share in shares:
        assert share == sorted(share, key=WANTED.index)
        assert all(needed in share[: share.index(job)] for job in share for needed in job.needs)
    sizes = [sum(isinstance(job, Pretrain) for job in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def noted(monkeypatch):
    """Jobs that a worker was given, in order, in place of doing them."""
    done = []
    monkeypatch.setattr(Worker, "do", lambda self, job: done.append(job))
    return done


def test_shards_leave_the_tables_to_the_run_without(tmp_path, noted):
    asked = {"smoke": True, "device": "cpu", "reporter": QUIET}
    for i in (1, 2):
        with locked(tmp_path, shared=True):  # another shard is at work
            outcome = evaluate(["0", "C", "D"], tmp_path, shard=(i, 2), **asked)
        assert outcome.values["jobs"] == [job.folder for job in noted]
        assert "without --shard writes the tables" in outcome.lines[0]
        noted.clear()
    assert not (tmp_path / "evaluation.json").exists()
    evaluate(["0", "C", "D"], tmp_path, **asked)
    assert any(isinstance(job, Analysis) for job in noted)
    assert (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("more", [{"ray": "local"}, {"plan": True}])
def test_a_share_of_the_whole_is_refused(tmp_path, more):
    with pytest.raises(UsageError, match="is of the whole"):
        evaluate(["0"], tmp_path, smoke=True, shard="1/2", **more)


def test_who_needs_a_selection_that_another_makes_waits_for_it(tmp_path):
    entered = threading.Event()

    def enter():
        with locked(tmp_path, patient=True):
            entered.set()

    with locked(tmp_path):
        second = threading.Thread(target=enter)
        second.start()
        assert not entered.wait(0.1)
    second.join()
    assert entered.is_set()


FAILING = ("reduce/LIDC/hash-6", "finetune/none/COVID")


@pytest.mark.parametrize("failing", [(), FAILING], ids=["all", "some"])
def test_jobs_have_a_gpu_each_and_come_after_what_they_need(tmp_path, failing):
    todo = jobs(("0", "C"), Grid({"LIDC": tmp_path}, (Task("COVID", tmp_path),)))
    worker = gpu_jobs.Noting(tmp_path, failing)
    failed = do_on_gpus(todo, worker, ["4", "7"], QUIET)
    done = [job for job in todo if job not in failed]
    notes = [worker.file(job).read_text().split() for job in done]
    assert {gpu for gpu, *_missing in notes} == {"4", "7"}
    assert all(not missing for _gpu, *missing in notes)
    assert set(failed) == {j for j in todo if j.folder in failing or any(needed in failed for needed in j.needs)}
    assert all(("is bad" if job.folder in failing else "which failed") in failed[job] for job in failed)


def test_a_job_whose_process_dies_or_raises_is_named_and_the_others_go_on(tmp_path):
    todo = jobs(("C",), Grid({"LIDC": tmp_path}, (Task("COVID", tmp_path),)))
    worker = gpu_jobs.Noting(tmp_path, dying=("reduce/LIDC/hash-3",), raising=("reduce/LIDC/hash-12",))
    failed = {job.folder: cause for job, cause in do_on_gpus(todo, worker, ["0", "1"], QUIET).items()}
    assert failed["reduce/LIDC/hash-3"] == "reduce/LIDC/hash-3: its process ended (exit code 9)"
    assert failed["reduce/LIDC/hash-12"] == "reduce/LIDC/hash-12: ValueError: no"
    assert worker.file(Pretrain(Reduce("LIDC", "hash 6"), "swav")).exists()
    assert len(failed) == 6


def test_one_that_is_interrupted_leaves_no_job_running(tmp_path):
    program = subprocess.Popen([sys.executable, gpu_jobs.__file__, str(tmp_path)])
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        assert program.poll() is None
        time.sleep(0.02)
    program.send_signal(signal.SIGKILL)
    program.wait()
    job = int((tmp_path / "begun").read_text())
    while Path(f"/proc/{job}").exists() and Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.02)


def test_the_cpu_and_a_named_gpu_are_no_several(monkeypatch):
    import torch

    from lim_gpu import similarity

    assert gpus_of("cpu") == []
    found = [torch.device("cuda", i) for i in range(3)]
    monkeypatch.setattr(similarity, "resolve_devices", lambda device: found if device != "cuda:1" else found[1:2])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of("cuda:1") == []
    assert gpus_of("auto") == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5,6")
    assert gpus_of("cuda") == ["2", "GPU-5", "6"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-5,6"


def test_minutes_are_kept_where_one_device_works_and_refused_elsewhere(tmp_path, noted, monkeypatch):
    asked = {"smoke": True, "device": "cpu", "reporter": QUIET, "seeds": 3, "minutes": 0}
    evaluate(["claim"], tmp_path / "shard", shard="1/1", **asked)
    assert noted  # the first seed is always begun
    assert {seed_of(job) for job in noted} == {0}
    with pytest.raises(UsageError, match="`minutes` ends jobs that go one after another, and `ray` does them at once"):
        evaluate(["claim"], tmp_path / "ray", ray="local", **asked)
    monkeypatch.setattr("lim_gpu.evaluate.devices.gpus_of", lambda _device: ["0", "1"])
    with pytest.raises(UsageError, match="Give --device cuda:0"):
        evaluate(["claim"], tmp_path / "gpus", **asked)


def test_jobs_go_to_processes_in_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text("[stores]\nS = 's'\n[tasks]\nA = { data = 'a', folds = 2, groups = 'g.csv' }\n")
    paper = Wolf2024.of(("A",), Path("grid.toml"), Path("data"), None)
    tasks = [job.task for job in paper.jobs() if isinstance(job, Finetune)]
    assert {(task.data, task.groups) for task in tasks} == {(tmp_path / "a", tmp_path / "g.csv")}
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"g\.csv: does not exist, the groups of task A\. Correct its path"):
        paper.check(0)
