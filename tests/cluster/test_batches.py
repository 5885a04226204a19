"""Tasks of any kind: processes and hosts die, run out of memory, lack room, or have another version."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections import Counter
from functools import partial

import pytest

import clustered
import lim_gpu
from lim_gpu import cluster, sharing
from lim_gpu.cli import doctor
from lim_gpu.cli.doctor import examine_hosts
from lim_gpu.cluster import run_batches, run_on_cluster
from lim_gpu.errors import LimGpuError, NoGpuError, UsageError
from lim_gpu.ingest import ingest

BEFORE = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}  # who had them


@pytest.fixture
def squared(connected, tmp_path):
    """What becomes of the squares of eight numbers, by number."""

    def run(function):
        outcomes = list(run_batches(partial(function, tmp_path), range(8)))
        assert len(outcomes) == 8
        return {outcome.task: outcome for outcome in outcomes}

    return run


def test_every_task_is_answered_once(connected, tmp_path):
    worked: Counter[str] = Counter()
    outcomes = list(run_batches(partial(clustered.squares, tmp_path), range(150), worked=worked))
    assert sorted((one.task, one.value) for one in outcomes) == [(n, n**2) for n in range(150)]
    assert worked == {os.uname().nodename: 150}
    assert os.getpid() not in {int(path.suffix[1:]) for path in tmp_path.iterdir()}


def test_no_tasks_ask_no_host(connected):
    assert list(run_batches(clustered.squares, [])) == []


def test_doctor_asks_every_host(connected, monkeypatch):
    name = os.uname().nodename
    assert sorted(check.line() for check in examine_hosts("auto")) == [
        f"ok      host      {name}, {cpus} CPU{'' if cpus == 1 else 's'}, 0 GPUs" for cpus in (0, 1, 1)
    ]
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    assert {check.state for check in examine_hosts("auto")} == {doctor.BROKEN}


def test_it_takes_the_place_of_children(connected):
    """Whose exceptions, crashes and time-outs are as on one machine."""
    found = {one.task: one for one in run_on_cluster(math.factorial, [(n,) for n in range(9)], workers=1)}
    assert {number: one.value for number, one in found.items()} == {n: math.factorial(n) for n in range(9)}
    [died] = run_on_cluster(os._exit, [(7,)], workers=1)
    assert died.error == "the child process ended (exit code 7)"


def test_a_host_that_does_not_see_the_files_is_named(connected):
    with pytest.raises(LimGpuError, match=f"{os.uname().nodename}: /nowhere: is not there"):
        list(run_on_cluster(math.factorial, [(1,)], workers=1, sees=["/nowhere"]))


def test_a_task_whose_process_died_goes_out_again(squared, tmp_path):
    found = squared(clustered.dying_once)
    assert [found[n].value for n in range(8)] == [n**2 for n in range(8)]
    first, second = sorted(tmp_path.glob(f"{clustered.BEGINS}.*"))
    assert first.suffix != second.suffix


def test_one_that_goes_out_again_tells_of_its_steps_anew(connected, tmp_path):
    """What a process told right before its death may be lost with it: Ray had not sent it yet."""
    told = []
    tasks = [clustered.BEGINS]
    function = partial(clustered.dying_on_its_way, tmp_path)
    [outcome] = run_batches(function, tasks, on_tick=lambda *one: told.append(one))
    assert outcome.value == clustered.BEGINS**2
    steps = [(0, 1), (0, 2), (0, 3)]
    before, anew = told[:-3], told[-3:]
    assert anew == steps
    assert before == steps[: len(before)]


def test_the_second_death_is_the_error_of_that_task_alone(squared, tmp_path):
    found = squared(clustered.poisoned)
    assert "died, twice" in found.pop(clustered.BEGINS).error
    assert {n: one.value for n, one in found.items()} == {n: n**2 for n in range(8) if n != clustered.BEGINS}
    deaths = len(list(tmp_path.glob(f"{clustered.BEGINS}.*")))
    assert deaths in (2, 3)  # of the one before, in its batch, the answer may have been lost with the first


def test_an_exception_is_the_error_of_its_task_and_one_line(squared, tmp_path):
    found = squared(clustered.raising)
    assert found.pop(clustered.BEGINS).error == "ValueError: two\\nlines"
    assert {n: one.value for n, one in found.items()} == {n: n**2 for n in range(8) if n != clustered.BEGINS}
    assert len(list(tmp_path.glob(f"{clustered.BEGINS}.*"))) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_out_of_memory_is_tried_once_more_in_another_process(squared, tmp_path, times):
    found = squared(partial(clustered.out_of_memory, times))
    own = found.pop(clustered.BEGINS)
    assert (own.value, own.error) == ((9, None) if times == 1 else (None, "OutOfMemoryError: CUDA out of memory"))
    assert len(found) == 7
    first, second = sorted(tmp_path.glob(f"{clustered.BEGINS}.*"))
    assert first.suffix != second.suffix


def test_what_a_lost_host_was_at_goes_out_again(hosts, squared):
    """And the loss is no death of the task: it may die once more."""
    found = squared(clustered.losing_the_host)
    assert [found[n].value for n in range(8)] == [n**2 for n in range(8)]
    hosts.mend()


def test_a_process_that_ray_no_longer_knows_ends_and_what_it_was_at_goes_out_again(hosts, squared, tmp_path):
    found = squared(clustered.losing_ray_alone)
    assert [found[n].value for n in range(8)] == [n**2 for n in range(8)]
    [first] = tmp_path.glob(f"{clustered.BEGINS}.0.*")
    assert clustered.gone(int(first.suffix[1:]))
    hosts.mend()


def test_no_host_with_room_is_said(connected, monkeypatch):
    monkeypatch.setattr("lim_gpu.sharing.PATIENCE", 0.1)
    with pytest.raises(NoGpuError, match="no host with 1 CPU and 1 GPU is there"):
        list(run_batches(clustered.squares, [1], gpus=1))
    with pytest.raises(LimGpuError, match="no host with 2 CPU is there"):
        list(run_batches(clustered.squares, [1], cpus=2))


def test_a_host_of_another_version_is_named(connected, monkeypatch, tmp_path):
    monkeypatch.setattr(sharing, "own_version", lambda: "0.0.1")
    with pytest.raises(LimGpuError, match=r"has lim-gpu .*, 0\.0\.1 runs here"):
        list(run_batches(partial(clustered.squares, tmp_path), [1]))


def test_a_sign_for_hosts_is_new_and_clears_what_a_killed_run_left(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".hosts.{ended.pid}.tmp").touch()
    with sharing.sign_in(tmp_path) as sign:
        assert list(tmp_path.iterdir()) == [sign]
        sharing.check_seen([sign])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(sharing.HostError, match="is not there"):
        sharing.check_seen([sign])


def test_signals_stay_with_who_had_them(connected):
    assert {number: signal.getsignal(number) for number in BEFORE} == BEFORE


@pytest.mark.parametrize("address", ["slices", "host:", ":6379", "host:port", "ray://host:10001", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="Give auto, local or HOST:PORT"):
        cluster.check_address(address)


@pytest.mark.parametrize("verb", [partial(lim_gpu.reduce, method="hash", output="s.csv"), partial(ingest, output="s")])
def test_cpus_of_a_process_belong_to_a_cluster_and_are_counted_from_1(tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    for how, said in (({}, "belongs to `ray`"), ({"ray": "local"}, "`cpus_per_task` 0: give 1 or more")):
        with pytest.raises(UsageError, match=said):
            verb(tmp_path, cpus_per_task=0, **how)
    assert list(tmp_path.iterdir()) == []
    assert cluster.Cluster.at("local") == cluster.Cluster("local", cpus=1)
    assert cluster.Cluster.at(None) is None


def test_workers_of_this_machine_are_refused_beside_hosts(tmp_path):
    with pytest.raises(UsageError, match="Give `cpus_per_task` with `ray`"):
        ingest(tmp_path, tmp_path / "slices", workers=2, ray="local")
