"""Two hosts of a core each, and a third that only shares out: processes, hosts and the one that asks are killed."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import clustered
import lim_gpu
from lim_gpu import cluster, sharing
from lim_gpu.cli import doctor
from lim_gpu.cli.doctor import examine_hosts
from lim_gpu.cluster import Cluster, connect, run_batches, run_on_cluster
from lim_gpu.errors import LimGpuError, NoGpuError, UsageError
from lim_gpu.evaluate.grid import Grid, Task, jobs
from lim_gpu.evaluate.hosts import do_on_hosts
from lim_gpu.ingest import ingest
from lim_gpu.ingest.convert import convert
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.pruning.hashes import nearest_kept, rank_hashes
from lim_gpu.reduction import hosts as reduction_hosts
from lim_gpu.reduction import search
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.reader import Reader
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.unit import units_of
from lim_gpu.store.slices import SliceStore
from reductions import MEASURES, RESULTS, cut_short
from stores import make_sources, make_store

TESTS = Path(__file__).parent
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}

BEFORE = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}  # who had them


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
    monkeypatch.setattr("lim_gpu.sharing.PATIENCE", 0.1)
    with pytest.raises(NoGpuError, match="no host with 1 CPU and 1 GPU is there"):
        list(run_batches(clustered.squares, [1], gpus=1))
    with pytest.raises(LimGpuError, match="no host with 2 CPU is there"):
        list(run_batches(clustered.squares, [1], cpus=2))


def test_a_host_of_another_version_is_named(connected, monkeypatch, tmp_path):
    monkeypatch.setattr(sharing, "version", lambda name: "0.0.1")
    with pytest.raises(LimGpuError, match=r"has lim-gpu .*, 0\.0\.1 runs here"):
        list(run_batches(partial(clustered.squares, tmp_path), [1]))


def test_signals_stay_with_who_had_them(connected):
    assert {number: signal.getsignal(number) for number in BEFORE} == BEFORE


@pytest.mark.parametrize("address", ["slices", "host:", ":6379", "host:port", "ray://host:10001", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="Give auto, local or HOST:PORT"):
        cluster.check_address(address)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A store of four volumes, which no test changes."""
    return make_store(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def alone(slices, tmp_path_factory):
    """A selection as one process makes it; of a method for which new processes need not load torch."""
    path = tmp_path_factory.mktemp("alone") / "s.csv"
    lim_gpu.reduce(slices, "every-n", keep=0.3, output=path)
    return path


def contents(csv: Path) -> dict[str, bytes]:
    """The CSV, and what was measured of each unit."""
    parts = csv.with_suffix(".parts")
    return {"csv": csv.read_bytes()} | {file.name: file.read_bytes() for file in sorted(parts.glob(MEASURES))}


def on_hosts(slices: Path, output: Path, method="every-n"):
    return lim_gpu.reduce(slices, method, keep=0.3, device="cpu", ray="auto", output=output, reporter=Reporter())


def test_hosts_select_what_one_process_selects(connected, slices, tmp_path, capsys):
    lim_gpu.reduce(slices, "ssim", keep=0.3, device="cpu", output=tmp_path / "alone.csv")
    made = on_hosts(slices, tmp_path / "s.csv", "ssim")
    assert contents(tmp_path / "s.csv") == contents(tmp_path / "alone.csv")
    assert made.record["hosts"] == {os.uname().nodename: 4}
    capsys.readouterr()
    on_hosts(slices, tmp_path / "s.csv", "ssim")
    assert "unchanged" in capsys.readouterr().err


def test_a_volume_that_cannot_be_read_is_named_as_by_one_process(connected, tmp_path, capsys):
    slices = make_store(tmp_path)
    with SliceStore(slices) as store:
        key = cut_short(store, 1)
    here = lim_gpu.reduce(slices, "hash", scope="patient", device="cpu", output=tmp_path / "here.csv")
    there = lim_gpu.reduce(
        slices, "hash", scope="patient", device="cpu", output=tmp_path / "there.csv", ray="auto", reporter=Reporter()
    )
    assert contents(tmp_path / "there.csv") == contents(tmp_path / "here.csv")
    assert there.record["failures"] == here.record["failures"]
    assert f"{key}.h5" in capsys.readouterr().err


def test_a_killed_process_changes_nothing(connected, slices, alone, tmp_path, monkeypatch):
    key, once = SliceStore(slices).volumes[2].key, tmp_path / "once"
    monkeypatch.setattr(reduction_hosts, "reduce_batch", partial(clustered.reduce_or_die, key, once))
    on_hosts(slices, tmp_path / "s.csv")
    assert once.exists()
    assert contents(tmp_path / "s.csv") == contents(alone)


def test_a_lost_host_changes_nothing(hosts, connected, slices, alone, tmp_path, monkeypatch):
    key, once = SliceStore(slices).volumes[1].key, tmp_path / "once"
    with monkeypatch.context() as patch:
        patch.setattr(reduction_hosts, "reduce_batch", partial(clustered.reduce_or_lose_the_host, key, once))
        on_hosts(slices, tmp_path / "s.csv")
    assert once.exists()
    assert contents(tmp_path / "s.csv") == contents(alone)
    hosts.mend()


def test_a_volume_that_always_kills_is_named_and_the_others_stand(connected, slices, alone, tmp_path, monkeypatch):
    key = SliceStore(slices).volumes[2].key
    with monkeypatch.context() as patch:
        patch.setattr(reduction_hosts, "reduce_batch", partial(clustered.reduce_or_die, key, None))
        made = on_hosts(slices, tmp_path / "s.csv")
    [failure] = made.record["failures"]
    assert failure["volume"] == key
    assert "died, twice" in failure["cause"]
    assert len(made.volumes) == 3
    again = on_hosts(slices, tmp_path / "s.csv")
    assert again.record["hosts"] == {os.uname().nodename: 1}
    assert contents(tmp_path / "s.csv") == contents(alone)


def test_what_was_measured_before_is_lent_to_the_hosts(slices, tmp_path, monkeypatch):
    lim_gpu.reduce(slices, "hash", threshold=6, device="cpu", output=tmp_path / "s.csv")
    with SliceStore(slices) as store:
        request = Request(Criterion("hash", Intensity()), threshold=3)
        units = units_of(store.volumes, "volume")
    monkeypatch.setattr(Reader, "_load", None)
    how = (slices, request, request.parameters(), tmp_path / "s.parts", "cpu")
    for result, unit in zip(reduction_hosts.reduce_batch(*how, units), units, strict=True):
        _done, files = result.value
        assert list(files) == [f"{unit.name}.result.npz"]


def lim_gpu_until_it_waits(slices: Path, folder: Path, address: str) -> subprocess.Popen[str]:
    """A reduction of which one unit or more stands, and another never comes."""
    begun = folder / "begun"
    arguments = ["reduce", str(slices), "--method", "every-n", "--keep", "0.3", "--json"]
    arguments += ["-o", str(folder / "s.csv"), "--ray", address]
    environment = os.environ | {"BEGUN": str(begun)}
    program = subprocess.Popen(
        [sys.executable, clustered.__file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    while not begun.exists() and program.poll() is None:
        time.sleep(0.05)
    return program


def gone(process: int) -> bool:
    """Whether it ends."""
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_one_that_is_ended_goes_on_and_leaves_nothing_running(hosts, connected, slices, alone, tmp_path, number):
    program = lim_gpu_until_it_waits(slices, tmp_path, hosts.address)
    program.send_signal(number)
    told, _ = program.communicate()
    assert program.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number]
    if number != signal.SIGKILL:
        assert json.loads(told)["exit_code"] == program.returncode
    assert gone(int((tmp_path / "begun").read_text()))
    standing = len(list((tmp_path / "s.parts").glob(RESULTS)))
    made = on_hosts(slices, tmp_path / "s.csv")
    assert 1 <= made.record["hosts"][os.uname().nodename] == 4 - standing < 4
    assert contents(tmp_path / "s.csv") == contents(alone)


def test_hosts_ingest_what_child_processes_ingest(connected, tmp_path):
    sources = make_sources(tmp_path / "sources")
    ingest(sources, tmp_path / "here", keep_identifiers=True, workers=1)
    report = ingest(sources, tmp_path / "there", keep_identifiers=True, ray="auto")
    assert report.values()["hosts"] == {os.uname().nodename: 4}
    here, there = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("[!.]*.*")}
        for name in ("here", "there")
    )
    assert len(here) == 5
    assert there == here
    again = ingest(sources, tmp_path / "there", keep_identifiers=True, ray="auto")
    assert again.unchanged
    assert again.hosts == {}


def test_the_key_and_the_identities_stay_with_who_shares_out(connected, tmp_path, monkeypatch):
    """Where files lie has to be told; who they are of does not."""
    sent = []

    def noted(function, tasks, **how):
        sent.extend(pickle.dumps([function, task]) for task in tasks)
        return run_on_cluster(function, tasks, **how)

    monkeypatch.setattr("lim_gpu.ingest.run_on_cluster", noted)
    report = ingest(make_sources(tmp_path / "s"), tmp_path / "slices", patient_pattern=r"(p\d+)v", ray="auto")
    key = bytes.fromhex((tmp_path / "slices.private" / "key").read_text())
    assert report.written == 4
    plans = [task[0] for function, task in map(pickle.loads, sent) if function is convert]
    assert [(plan.identity, plan.patient_identity, plan.name) for plan in plans] == [("", "", "")] * 4
    assert not any(key in message or key.hex().encode() in message for message in sent)


def test_a_host_that_does_not_see_the_files_is_named(connected):
    with pytest.raises(LimGpuError, match=f"{os.uname().nodename}: /nowhere: is not there"):
        list(run_on_cluster(math.factorial, [(1,)], workers=1, sees=["/nowhere"]))


def test_hosts_compare_hashes_in_runs_of_equal_area(connected, monkeypatch):
    """Random hashes, and a walk of few bits a step, which has ties and chains."""
    monkeypatch.setattr(search, "AREA", 1 << 17)
    rng = np.random.default_rng(0)
    steps = np.uint64(1) << rng.integers(0, 64, 900, dtype=np.uint64)
    hashes = np.concatenate([rng.integers(0, 2**63, 600, dtype=np.uint64), np.bitwise_xor.accumulate(steps)])
    here, there = rank_hashes(hashes), rank_hashes(hashes, search.SearchOnHosts(1, 0))
    np.testing.assert_array_equal(there.dropped, here.dropped)
    np.testing.assert_array_equal(there.covered_by, here.covered_by)
    kept = here.keep(0.2)
    for found, expected in zip(
        nearest_kept(hashes, kept, search.SearchOnHosts(1, 0)), nearest_kept(hashes, kept), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [0, 1, 2, 700, 3000])
def test_runs_cover_all_queries_once_and_are_of_one_size(n, monkeypatch):
    monkeypatch.setattr(search, "AREA", 100_000)
    runs = search.runs_of(np.arange(n))
    assert [q for first, last in runs for q in range(first, last)] == list(range(n))
    areas = [sum(range(first, last)) for first, last in runs]
    assert max(areas) <= 100_000 + n
    assert all(area > 100_000 - n for area in areas[:-1])


def test_a_whole_data_set_is_hashed_volume_by_volume(connected, tmp_path, monkeypatch):
    slices = make_store(tmp_path)
    with SliceStore(slices) as store:
        cut_short(store, 1)
    here, there = (
        lim_gpu.reduce(
            slices, "hash", keep=0.4, scope="dataset", device="cpu", output=tmp_path / name / "s.csv", ray=ray
        )
        for name, ray in (("here", None), ("there", "auto"))
    )
    assert contents(tmp_path / "there" / "s.csv") == contents(tmp_path / "here" / "s.csv")
    assert there.record["failures"] == here.record["failures"] != []
    assert there.record["hosts"] == {os.uname().nodename: 4}


def test_a_data_set_that_was_hashed_in_part_is_hashed_on(connected, slices, tmp_path):
    how = {"keep": 0.4, "scope": "dataset", "device": "cpu"}
    lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "here" / "s.csv")
    lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "there" / "s.csv", shard=(1, 4))
    there = lim_gpu.reduce(slices, "hash", **how, output=tmp_path / "there" / "s.csv", ray="auto")
    assert there.record["hosts"] == {os.uname().nodename: 3}
    assert contents(tmp_path / "there" / "s.csv") == contents(tmp_path / "here" / "s.csv")


def test_a_cluster_of_this_machine_alone_comes_and_goes(slices, alone, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "lim_gpu.cli", "reduce", slices, "--method", "every-n", "--keep", "0.3", "--json"]
    program = subprocess.Popen([*command, "-o", tmp_path / "s.csv", "--ray", "local"], stdout=subprocess.PIPE)
    told, _ = program.communicate()
    assert program.returncode == 0
    assert json.loads(told)["hosts"] == {os.uname().nodename: 4}
    assert contents(tmp_path / "s.csv") == contents(alone)
    assert not list(Path("/tmp").glob(f"lim-gpu-*.{program.pid}.*"))


FAILING = ("reduce/LIDC/hash-6", "pretrain/LIDC/ssim-0.1/swav")


@pytest.mark.parametrize("failing", [(), FAILING], ids=["all", "some"])
def test_jobs_of_the_evaluations_come_after_what_they_need(connected, hosts, tmp_path, failing):
    todo = jobs(("0", "B", "D"), Grid({"LIDC": tmp_path}, (Task("COVID", tmp_path),)))
    worker = clustered.Noting(tmp_path, failing)
    failed = do_on_hosts(todo, lambda place: worker, tmp_path, "cpu", Cluster(hosts.address), Reporter(quiet=True))
    done = [job for job in todo if job not in failed]
    assert all(worker.file(job).read_text() == "" for job in done)
    after = [job for job in todo if job.folder in failing or any(needed in failed for needed in job.needs)]
    assert set(failed) == set(after)
    assert all("is bad" in failed[job] or "which failed" in failed[job] for job in failed)
    assert len(done) == len(todo) - len(after) > 5
