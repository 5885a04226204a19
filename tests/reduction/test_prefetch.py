"""Reading ahead: order, memory, errors, what is passed by, and that loading and working overlap."""

from __future__ import annotations

import threading
import time

import pytest

from lim_gpu.reduction.prefetch import ReadAhead


class Loader:
    """Loads numbers as their squares, notes which and in which thread, and waits for `gate` where there is one."""

    def __init__(self, bad=(), gate=None):
        self.begun, self.threads, self.bad, self.gate = [], set(), bad, gate

    def __call__(self, key):
        self.begun.append(key)
        self.threads.add(threading.current_thread())
        if self.gate:
            assert self.gate.wait(60)
        if key in self.bad:
            raise ValueError(f"{key} is damaged")
        return key * key


def reader(loader, limit=3):
    return ReadAhead(loader, lambda key: 1, limit)


def settle(loader, count):
    """Wait until the thread has begun `count` loads and would have begun another."""
    until = time.monotonic() + 800
    while len(loader.begun) < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)  # a thread that is slower than this is not caught at one too many: that fails nothing
    return loader.begun


def test_values_come_in_order_from_one_other_thread():
    loader = Loader()
    with reader(loader) as ahead:
        ahead.expect(range(10))
        ahead.expect(range(10, 20))
        assert [ahead.take(key) for key in range(20)] == [key * key for key in range(20)]
    assert loader.begun == list(range(20))
    assert len(loader.threads) == 1
    assert threading.main_thread() not in loader.threads


def test_several_threads_load_at_once_and_values_come_in_order():
    together = threading.Barrier(3)

    def load(key):
        if key < 3:
            together.wait(30)  # breaks unless three load at the same time
        return key * key

    with ReadAhead(load, lambda key: 1, 5, threads=3) as ahead:
        ahead.expect(range(20))
        assert [ahead.take(key) for key in range(20)] == [key * key for key in range(20)]


def test_no_more_waits_than_the_limit():
    loader = Loader()
    with reader(loader) as ahead:
        ahead.expect(range(10))
        assert settle(loader, 3) == [0, 1, 2]
        ahead.take(0)
        assert settle(loader, 4) == [0, 1, 2, 3]


def test_what_is_larger_than_the_limit_is_loaded_when_it_is_asked_for():
    loader = Loader()
    with ReadAhead(loader, lambda key: 100 if key == 1 else 1, 10) as ahead:
        ahead.expect(range(4))
        assert settle(loader, 1) == [0]
        assert [ahead.take(key) for key in range(4)] == [0, 1, 4, 9]
    assert threading.main_thread() in loader.threads


def test_an_error_surfaces_at_its_value_and_the_rest_goes_on():
    with reader(Loader(bad={2})) as ahead:
        ahead.expect(range(5))
        assert [ahead.take(0), ahead.take(1)] == [0, 1]
        with pytest.raises(ValueError, match="2 is damaged"):
            ahead.take(2)
        assert [ahead.take(3), ahead.take(4)] == [9, 16]


@pytest.mark.parametrize("goes_on_at", [2, 7])  # waiting, and not yet begun
def test_what_is_passed_by_is_dropped(goes_on_at):
    loader = Loader()
    with reader(loader) as ahead:
        ahead.expect(range(12))
        settle(loader, 3)
        assert [ahead.take(key) for key in range(goes_on_at, 12)] == [key * key for key in range(goes_on_at, 12)]
    assert not set(range(3, goes_on_at)) & set(loader.begun)


def test_what_was_not_expected_is_loaded_and_nothing_is_lost():
    loader = Loader()
    with reader(loader) as ahead:
        ahead.expect(range(5))
        assert ahead.take(0) == 0
        assert ahead.take(0) == 0
        assert [ahead.take(key) for key in range(1, 5)] == [1, 4, 9, 16]
    assert sorted(loader.begun) == [0, 0, 1, 2, 3, 4]


def test_leaving_waits_for_the_load_under_way_alone():
    gate = threading.Event()
    loader = Loader(gate=gate)
    with pytest.raises(KeyboardInterrupt), reader(loader) as ahead:  # noqa: PT012
        ahead.expect(range(10))
        settle(loader, 1)
        threading.Timer(0.1, gate.set).start()
        raise KeyboardInterrupt
    assert loader.begun == [0]
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_loading_and_working_overlap():
    begun = [threading.Event() for _ in range(20)]

    with ReadAhead(lambda key: begun[key].set(), lambda key: 1, 4) as ahead:
        ahead.expect(range(20))
        for key, following in enumerate(begun[1:]):
            ahead.take(key)
            assert following.wait(60), "what follows is not loaded while this is worked on"
