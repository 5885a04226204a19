"""What `lim-gpu reduce` says came out."""

from __future__ import annotations

import pytest

import lim_gpu
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.verb import Targets, reduce_verb
from reductions import kept_of


def said(store, output, method="hash", **asked):
    request = Request(Criterion(method, Intensity()), **asked)
    how = {"device": "cpu", "dry_run": False, "reporter": Reporter(quiet=True)}
    return reduce_verb(store.path, request, Targets(output), **how).lines


@pytest.mark.parametrize("budget", [{"keep": 0.2}, {"keep_count": 3}])
def test_of_a_budget_and_a_threshold_it_says_which_decided(store, tmp_path, budget):
    alone = kept_of(lim_gpu.reduce(store, "hash", device="cpu", **budget))
    both = kept_of(lim_gpu.reduce(store, "hash", threshold=3, device="cpu", **budget))
    by_budget = sum(both[key] == kept for key, kept in alone.items())
    assert 0 < by_budget < len(both)  # else it tells nothing
    name, value = f"--{next(iter(budget))}".replace("_", "-"), next(iter(budget.values()))
    told = (
        f"{name} {value} decided in {by_budget} volume{'s' * (by_budget > 1)}, --threshold 3 in {len(both) - by_budget}"
    )
    for _again in range(2):  # made, and unchanged
        assert said(store, tmp_path / "s.csv", threshold=3, **budget)[1] == told


def test_the_threshold_that_nobody_gave_is_told(store, tmp_path):
    assert said(store, tmp_path / "s.csv")[1] == "--threshold 6 bits decided, which hash takes where nothing is said"
    assert len(said(store, tmp_path / "eight.csv", threshold=8)) == 1
    assert len(said(store, tmp_path / "keep.csv", keep=0.2)) == 1
    assert len(said(store, tmp_path / "all.csv", "all")) == 1
