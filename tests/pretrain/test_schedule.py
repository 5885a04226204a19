"""The rates of a step: pure functions, checked at their ends and against the published formula."""

from __future__ import annotations

import math

import pytest

from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.schedule import learning_rate, weight_decay

EACH, EPOCHS = 50, 20
TOTAL = EACH * EPOCHS


def rates(config, steps=TOTAL):
    return [learning_rate(step, TOTAL, EACH, config) for step in range(steps)]


def test_warm_up_peak_and_end():
    values = {"epochs": EPOCHS, "warmup_epochs": 4, "lr": 0.4, "start_lr": 0.1, "final_lr": 0.001}
    config = resolve("swav", overrides=values)
    lr = rates(config, TOTAL + 1)
    assert lr[0] == 0.1
    assert lr[100] == pytest.approx(0.25)  # half of 200 steps of warm-up
    assert lr[200] == max(lr) == pytest.approx(0.4)
    assert lr[200:] == sorted(lr[200:], reverse=True)
    assert lr[600] == pytest.approx((0.4 + 0.001) / 2)  # half of the cosine
    assert lr[TOTAL - 1] == pytest.approx(0.001, abs=1e-5)
    assert lr[TOTAL] == 0.001


@pytest.mark.parametrize("past", [0, 1, 1000, 10**9])
def test_past_the_end_it_stays(past):
    config = resolve("swav", overrides={"epochs": EPOCHS})
    assert learning_rate(TOTAL + past, TOTAL, EACH, config) == pytest.approx(config.final_lr, rel=1e-12)


def test_no_warm_up_begins_at_the_peak():
    assert rates(resolve("swav", overrides={"epochs": EPOCHS, "warmup_epochs": 0}))[0] == 0.15


def test_a_warm_up_as_long_as_the_run_divides_by_nothing():
    config = resolve("swav", overrides={"epochs": EPOCHS, "warmup_epochs": EPOCHS})
    assert learning_rate(TOTAL, TOTAL, EACH, config) == pytest.approx(config.lr)


def test_by_epoch_it_is_constant_within_one_and_torchs_cosine_at_their_starts():
    config = resolve("moco", "wolf2024-code", {"epochs": EPOCHS})
    lr = rates(config)
    assert all(len(set(lr[e * EACH : (e + 1) * EACH])) == 1 for e in range(EPOCHS))
    expected = [config.lr * (1 + math.cos(math.pi * e / EPOCHS)) / 2 for e in range(EPOCHS)]
    assert lr[::EACH] == pytest.approx(expected)


def test_the_published_one_swings_for_ever():
    """Warm-up of 10 steps and a cosine over 800 'steps' without a clamp: what the authors' code computed."""

    def published(step):
        if step < 10:
            return 0.15 * step / 10
        return 0.15 * 0.5 * (1 + math.cos(math.pi * (step - 10) / (800 - 10)))

    config = resolve("swav", "wolf2024-code")
    steps = range(0, 20_000, 7)
    lr = [learning_rate(step, 800 * 177, 177, config) for step in steps]
    assert lr == pytest.approx([published(step) for step in steps], abs=1e-12)
    assert sum(lr) / len(lr) == pytest.approx(0.075, rel=0.02)  # half of the nominal peak


def test_weight_decay():
    config = resolve("spark", overrides={"epochs": EPOCHS})
    decay = [weight_decay(step, TOTAL, config) for step in range(TOTAL + 10)]
    assert decay[0] == pytest.approx(0.04)
    assert decay[TOTAL // 2] == pytest.approx(0.12)
    assert decay[TOTAL] == decay[-1] == pytest.approx(0.2)
    assert {weight_decay(step, TOTAL, resolve("swav")) for step in (0, 5, TOTAL)} == {1e-6}
