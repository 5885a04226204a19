"""A run that was cut off goes on where it stopped, and another machine's numbers are kept."""

from __future__ import annotations

import pytest

from bench import inputs, machine, parts
from bench.timing import seconds_of

ROW = parts.Row("peers", "SSIM", "lim_gpu", "cpu", "pair", 10, [2.0, 1.0, 6.0, 3.0])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "FOLDER", tmp_path)


def test_what_was_measured_is_not_measured_again_by_the_same_code(monkeypatch):
    assert not parts.current("a")
    parts.save("a", [ROW])
    assert parts.current("a")
    assert parts.load()[0].rows == [ROW]
    monkeypatch.setattr(machine, "environment", lambda: {"sources": "others"})
    assert not parts.current("a")


def test_a_reason_never_replaces_a_measurement():
    parts.save_skip("a", "no GPU")
    assert not parts.current("a")
    parts.save("a", [ROW])
    parts.save_skip("a", "no GPU")
    assert parts.load()[0].rows == [ROW]


def test_median_and_spread():
    assert ROW.each == 0.25
    assert ROW.spread == pytest.approx((3.75 - 1.75) / 2 / 2.5)


@pytest.mark.parametrize(("budget", "calls"), [(100, 1 + 5), (0, 1 + 1)])
def test_a_round_warms_up_and_the_budget_ends_it(budget, calls):
    called = []
    times, _ = seconds_of(lambda: called.append(0), "cpu", 5, budget)
    assert len(called) == calls == 1 + len(times)


@pytest.mark.parametrize("data_set", [inputs.LIDC, inputs.PET_CT], ids=lambda data_set: data_set.name)
def test_data_sets_have_the_slices_of_the_paper(data_set):
    sizes = data_set.sizes()
    assert (len(sizes), sum(sizes)) == (data_set.volumes, data_set.slices)
    assert sizes == data_set.sizes()
    assert 20 < min(sizes) < max(sizes) < 2000


def test_a_volume_changes_from_slice_to_slice_and_with_its_seed():
    first, other = (inputs.volume(70, "cpu", seed, 32) for seed in (0, 3))
    assert first.shape == (70, 32, 32)
    assert (first.amax((1, 2)) == 255).all()
    assert (first[0] != first[1]).any()
    assert (first != other).any()
