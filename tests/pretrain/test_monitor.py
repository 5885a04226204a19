"""The guards: what they warn of before a run and while it collapses, and that a healthy run is left in peace."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lim_gpu.intensity import Intensity
from lim_gpu.pretrain import monitor
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.monitor import PATIENCE, CollapseWatch, collapse_signs, warnings_of
from lim_gpu.pretrain.plan import Plan
from lim_gpu.pretrain.presets import METHODS
from lim_gpu.progress import Reporter


def plan(method="swav", preset="recommended", slices=20_000, volumes=100, **overrides):
    return Plan(resolve(method, preset, overrides), Path("slices"), None, Intensity(), slices, volumes, {})


@pytest.mark.parametrize("method", METHODS)
def test_recommended_presets_need_no_warning(method):
    assert warnings_of(plan(method)) == []
    assert warnings_of(plan(method, slices=1200)) == []  # the queues follow the data


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (plan(preset="wolf2024-paper"), "batch 128 + queue 0 is less than twice the 500 prototypes"),
        (plan(preset="wolf2024-code"), "swings between 0.15 and 0 every 1580 steps"),
        (plan(slices=2000, **{"swav.queue_share": 0}), "the queue of 3,840 embeddings reaches 1.9 epochs back"),
        (plan(slices=300), "queue 256 is less than twice the 500 prototypes: codes smear over many of them. Give a l"),
        (plan(epochs=10, **{"swav.freeze_epochs": 10}), "frozen for the whole run"),
        (plan(epochs=10), "the queue would begin at epoch 15"),
        (plan(epochs=10, warmup_epochs=10), "the warm-up is longer than the run"),
        (plan("moco", "wolf2024-code"), "every query meets old keys of its own slice"),
        (plan("moco", "wolf2024-code"), "plain batch normalisation"),
        (plan("moco", batch_size=16, **{"moco.bn_groups": 8}), "8 groups of 16 slices are too small"),
        (plan("moco", volumes=1, **{"moco.mask_same_volume": True}), "hides every negative where there is one volume"),
        (plan("spark", batch_size=6), "sees 120 positions a batch"),
        (plan("masked", "tariq2024-paper"), "codes that begin within 1 / 512 of 0 collapse"),
        (plan(slices=200, epochs=20), "20 steps are few"),
    ],
)
def test_what_is_wrong_with_a_plan(made, text):
    assert any(text in warning for warning in warnings_of(made))


def test_groups_of_a_process_are_judged_by_its_slices(monkeypatch):
    made = plan("moco", batch_size=32, **{"moco.bn_groups": 8})
    assert warnings_of(made) == []
    monkeypatch.setattr(monitor, "world_size", lambda: 16)
    assert any("2 groups of 2 slices of a process are too small" in warning for warning in warnings_of(made))


HEALTHY = {"loss": 5.2, "embedding_std": 0.06, "effective_rank": 40.0, "usage_perplexity": 300.0}


@pytest.mark.parametrize(
    ("method", "change", "kind"),
    [
        ("swav", {}, None),
        ("moco", {}, None),
        ("swav", {"embedding_std": 0.001}, "std"),
        ("moco", {"embedding_std": 0.001}, "std"),
        ("swav", {"effective_rank": 1.2}, "rank"),
        ("swav", {"usage_perplexity": 3.0}, "usage"),
        ("swav", {"loss": math.log(500) - 0.01}, "stuck"),
        ("moco", {"loss": math.log(500)}, None),
        ("moco", {"negatives": 0.0}, "alone"),
        ("spark", {"embedding_std": 0.0}, None),
        ("rotation", {"loss": 1.0, "embedding_std": 0.0}, None),
        ("rotation", {"loss": math.log(4)}, "stuck"),
        ("flip", {"loss": math.log(3)}, "stuck"),
        ("flip", {"loss": math.log(4)}, None),
        ("masked", {"embedding_std": 0.0}, None),
        ("masked", {"perplexity": 67.0}, None),
        ("denoise", {"perplexity": 3.0}, "codes"),
    ],
)
def test_signs_of_collapse(method, change, kind):
    assert list(collapse_signs(resolve(method), HEALTHY | change)) == ([kind] if kind else [])


def test_a_warning_comes_once_when_a_sign_lasts(capsys):
    watch = CollapseWatch(resolve("swav"), Reporter())
    stuck = HEALTHY | {"loss": math.log(500)}
    for epoch, means in enumerate([stuck] * (PATIENCE - 1) + [HEALTHY] + [stuck] * (PATIENCE + 4)):
        watch.look(epoch, means)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: epoch {2 * PATIENCE - 1}: the loss 6.2146 stays at ln 500")
    assert "swav.epsilon=0.03" in lines[0]
