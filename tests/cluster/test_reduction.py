"""Hosts reduce: processes, hosts and the one that asks are killed, and the selection is that of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import clustered
import lim_gpu
from lim_gpu.cli.info import describe
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction import hosts as reduction_hosts
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.reader import Reader
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.unit import units_of
from lim_gpu.store.slices import SliceStore
from reductions import RESULTS, contents, cut_short
from stores import make_store


def on_hosts(slices: Path, output: Path, method="every-n"):
    return lim_gpu.reduce(slices, method, keep=0.3, device="cpu", ray="auto", output=output, reporter=Reporter())


def test_hosts_select_what_one_process_selects(connected, slices, tmp_path, capsys):
    lim_gpu.reduce(slices, "ssim", keep=0.3, device="cpu", output=tmp_path / "alone.csv")
    made = on_hosts(slices, tmp_path / "s.csv", "ssim")
    assert contents(tmp_path / "s.csv") == contents(tmp_path / "alone.csv")
    assert made.record["hosts"] == {os.uname().nodename: 4}
    assert f"hosts: {os.uname().nodename} 4" in describe(tmp_path / "s.csv", False, Reporter()).lines
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_one_that_is_ended_goes_on_and_leaves_nothing_running(hosts, connected, slices, alone, tmp_path, number):
    program = lim_gpu_until_it_waits(slices, tmp_path, hosts.address)
    program.send_signal(number)
    told, _ = program.communicate()
    assert program.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number]
    if number != signal.SIGKILL:
        assert json.loads(told)["exit_code"] == program.returncode
    assert clustered.gone(int((tmp_path / "begun").read_text()))
    standing = len(list((tmp_path / "s.parts").glob(RESULTS)))
    made = on_hosts(slices, tmp_path / "s.csv")
    assert 1 <= made.record["hosts"][os.uname().nodename] == 4 - standing < 4
    assert contents(tmp_path / "s.csv") == contents(alone)


def test_a_cluster_of_this_machine_alone_comes_and_goes(slices, alone, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "lim_gpu.cli", "reduce", slices, "--method", "every-n", "--keep", "0.3", "--json"]
    program = subprocess.Popen([*command, "-o", tmp_path / "s.csv", "--ray", "local"], stdout=subprocess.PIPE)
    told, _ = program.communicate()
    assert program.returncode == 0
    assert json.loads(told)["hosts"] == {os.uname().nodename: 4}
    assert contents(tmp_path / "s.csv") == contents(alone)
    assert not list(Path("/tmp").glob(f"lim-gpu-*.{program.pid}.*"))
