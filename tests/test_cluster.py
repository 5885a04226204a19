"""Two hosts of a core each, and a third that only shares out: processes, hosts and the one that asks are killed."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

import clustered
from lim_gpu import cluster
from lim_gpu.cluster import connect, run_batches, run_on_cluster
from lim_gpu.errors import LimGpuError, NoGpuError, UsageError

TESTS = Path(__file__).parent
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


class Hosts:
    """A cluster on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with cluster._own_signals():
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        self.address = self._cluster.address
        for _ in range(2):
            self._add()

    def mend(self) -> None:
        """Bring back what was killed."""
        for node in list(self._cluster.worker_nodes):
            if node.dead_processes():
                self._cluster.remove_node(node, allow_graceful=False)
                self._add()

    def _add(self) -> None:
        with cluster._own_signals():
            self._cluster.add_node(num_cpus=1, **NODE)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def hosts():
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(TESTS))  # for the processes of the hosts
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", "5" * 64)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Hosts()
    yield made
    made.close()
    patch.undo()


@pytest.fixture(scope="module")
def connected(hosts):
    with connect(hosts.address):
        yield


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


def test_it_takes_the_place_of_children(connected):
    """Whose exceptions, crashes and time-outs are as on one machine."""
    found = {one.task: one for one in run_on_cluster(math.factorial, [(n,) for n in range(9)])}
    assert {number: one.value for number, one in found.items()} == {n: math.factorial(n) for n in range(9)}
    [died] = run_on_cluster(os._exit, [(7,)])
    assert died.error == "the child process ended (exit code 7)"


def test_a_task_whose_process_died_goes_out_again(squared, tmp_path):
    found = squared(clustered.dying_once)
    assert [found[n].value for n in range(8)] == [n**2 for n in range(8)]
    first, second = sorted(tmp_path.glob(f"{clustered.BEGINS}.*"))
    assert first.suffix != second.suffix


def test_the_second_death_is_the_error_of_that_task_alone(squared, tmp_path):
    found = squared(clustered.poisoned)
    assert "died, twice" in found.pop(clustered.BEGINS).error
    assert {n: one.value for n, one in found.items()} == {n: n**2 for n in range(8) if n != clustered.BEGINS}
    assert len(list(tmp_path.glob(f"{clustered.BEGINS}.*"))) == 2


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


def test_no_host_with_room_is_said(connected, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    with pytest.raises(NoGpuError, match="no host with 1 CPU and 1 GPU is there"):
        list(run_batches(clustered.squares, [1], gpus=1))
    with pytest.raises(LimGpuError, match="no host with 2 CPU is there"):
        list(run_batches(clustered.squares, [1], cpus=2))


def test_a_host_of_another_version_is_named(connected, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "version", lambda name: "0.0.1")
    with pytest.raises(LimGpuError, match=r"has lim-gpu .*, 0\.0\.1 runs here"):
        list(run_batches(partial(clustered.squares, tmp_path), [1]))


def test_signals_stay_with_who_had_them(connected):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("address", ["slices", "host:", ":6379", "host:port", "ray://host:10001", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="Give auto, local or HOST:PORT"):
        cluster.check_address(address)
