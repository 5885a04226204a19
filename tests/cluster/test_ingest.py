"""Hosts ingest: the store is that of one machine, and who is in it stays with who shares out."""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager

import pytest

from lim_gpu import cluster, workers
from lim_gpu.cluster import run_on_cluster
from lim_gpu.ingest import ingest
from lim_gpu.ingest.convert import convert
from lim_gpu.ingest.convert_all import Steps
from lim_gpu.progress import Reporter
from stores import make_sources


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


class Bar(Reporter):
    """Keeps how the last bar moved."""

    @contextmanager
    def track(self, description, total, unit):
        self.total, self.moves = total, []
        yield self.moves.append


@pytest.mark.parametrize("ray", ["auto", None])
def test_the_bar_moves_within_a_volume(connected, tmp_path, monkeypatch, ray):
    monkeypatch.setattr(cluster if ray else workers, "PAUSE", 0)
    bar = Bar(quiet=True)
    report = ingest(make_sources(tmp_path / "s"), tmp_path / "slices", ray=ray, reporter=bar)
    assert [move for move in bar.moves if move] == [1] * report.slices
    assert bar.total == report.slices > report.written


def test_the_bar_goes_back_where_a_volume_begins_anew():
    moves = []
    steps = Steps(moves.append, [5, 8])
    for task, count in [(1, 3), (0, 2), (1, 1)]:
        steps.tell(task, count)
    steps.end(1)
    steps.end(0)
    assert moves == [3, 2, -2, 7, 3]


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
