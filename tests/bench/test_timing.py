"""How a function is timed: what is short is called many times between two events, what is long once."""

from __future__ import annotations

import pytest
import torch

from bench import timing

LAUNCH = 20e-6  # s that the host takes before the first kernel starts


class Gpu:
    """A GPU on which `work` seconds lie between two events for each call."""

    def __init__(self, work):
        self.work, self.groups = work, []

    def between_events(self, function, calls):
        self.groups.append(calls)
        for _ in range(calls):
            function()
        return self.work + LAUNCH / calls


@pytest.fixture
def gpu(monkeypatch):
    def make(work):
        made = Gpu(work)
        monkeypatch.setattr(timing, "_on_gpu", made.between_events)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: timing.FLUSH_BYTES + 7)
        return made

    return make


@pytest.mark.parametrize("work", [1e-6, 16e-6, 300e-6])
def test_launching_what_is_short_is_not_in_its_time(gpu, work):
    there, called = gpu(work), []
    seconds, memory = timing.seconds_of(lambda: called.append(0), "cuda", 5, 1)
    assert len(seconds) == 5
    assert max(seconds) < work + LAUNCH / 10 * max(1, work / 100e-6)
    assert all(calls * work > timing.SHORT / 2 for calls in there.groups[-5:])
    assert len(called) == sum(there.groups)
    assert memory == 7


def test_what_is_long_is_called_once_a_round(gpu):
    there = gpu(5e-3)
    seconds, _ = timing.seconds_of(lambda: None, "cuda", 3, 1)
    assert there.groups == [1] * (1 + 3)  # the first warms up
    assert seconds == pytest.approx([5e-3 + LAUNCH] * 3)
