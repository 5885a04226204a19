"""Hosts do the jobs of the evaluations."""

from __future__ import annotations

import os

import pytest

import clustered
from lim_gpu.cluster import Cluster
from lim_gpu.evaluate.grid import Grid, Task, jobs
from lim_gpu.evaluate.hosts import do_on_hosts
from lim_gpu.progress import Reporter

FAILING = ("reduce/LIDC/hash-6", "pretrain/LIDC/ssim-0.1/swav")


@pytest.mark.parametrize("failing", [(), FAILING], ids=["all", "some"])
def test_jobs_of_the_evaluations_come_after_what_they_need(connected, hosts, tmp_path, failing, capsys):
    todo = jobs(("0", "B", "D"), Grid({"LIDC": tmp_path}, (Task("COVID", tmp_path),)))
    worker = clustered.Noting(tmp_path, failing)
    failed = do_on_hosts(todo, lambda place: worker, tmp_path, "cpu", Cluster(hosts.address), Reporter())
    done = [job for job in todo if job not in failed]
    assert all(worker.file(job).read_text() == "" for job in done)
    after = [job for job in todo if job.folder in failing or any(needed in failed for needed in job.needs)]
    assert set(failed) == set(after)
    assert all("is bad" in failed[job] or "which failed" in failed[job] for job in failed)
    assert len(done) == len(todo) - len(after) > 5
    assert f"hosts: {os.uname().nodename} {len(done) + len(failing)}" in capsys.readouterr().err
