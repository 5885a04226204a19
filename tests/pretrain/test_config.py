"""The configuration: what the presets say, what follows from an override, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import PretrainConfig, resolve
from lim_gpu.pretrain.presets import VALUES


@pytest.mark.parametrize(("method", "preset"), VALUES)
def test_every_preset_survives_json(method, preset):
    config = resolve(method, preset)
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.method, config.preset) == (method, preset)


def test_texts_and_values_override_alike():
    texts = {"lr": "0.1", "swav.queue": "64", "swav.large_scale": "0.5,1", "final_weight_decay": "none", "mean": "0.2"}
    values = {"lr": 0.1, "swav": {"queue": 64, "large_scale": (0.5, 1.0)}, "final_weight_decay": None, "mean": [0.2]}
    assert resolve("swav", overrides=texts) == resolve("swav", overrides=values)
    assert resolve("moco", overrides={"moco.mlp": "false"}).moco.mlp is False


def test_recommended_rates_go_with_the_batch_and_the_published_do_not():
    base, half = resolve("swav"), resolve("swav", overrides={"batch_size": 64})
    assert half.lr == base.lr / 2
    assert half.final_lr == base.final_lr / 2
    assert resolve("swav", "wolf2024-paper", {"batch_size": 64}).lr == 0.15
    assert resolve("swav", overrides={"batch_size": 64, "lr": 0.15}).lr == 0.15


def test_the_ends_keep_their_ratio_to_a_given_peak():
    base, given = resolve("spark"), resolve("spark", overrides={"lr": 1e-5})
    assert given.start_lr / given.lr == pytest.approx(base.start_lr / base.lr)
    assert given.final_lr / given.lr == pytest.approx(base.final_lr / base.lr)


def test_a_short_run_warms_up_for_a_tenth_at_most():
    assert resolve("swav", overrides={"epochs": 5}).warmup_epochs == 0
    assert resolve("swav", overrides={"epochs": 50}).warmup_epochs == 5
    assert resolve("swav", overrides={"epochs": 800}).warmup_epochs == 10
    assert resolve("swav", overrides={"epochs": 50, "warmup_epochs": 20}).warmup_epochs == 20


@pytest.mark.parametrize(("batch", "groups"), [(128, 8), (8, 2), (12, 3), (6, 1)])
def test_the_groups_of_split_bn_divide_the_batch(batch, groups):
    assert resolve("moco", overrides={"batch_size": batch}).moco.bn_groups == groups


@pytest.mark.parametrize(
    ("method", "slices", "overrides", "length"),
    [
        ("moco", 22_672, {}, 5_632),  # LIDC after HASH-6: 44 batches, 0.248 of the data
        ("moco", 22_672, {"moco.queue_share": 0}, 65_536),  # as published: 2.9 epochs
        ("moco", 1_000_000, {}, 65_536),
        ("moco", 100, {"batch_size": 64}, 64),
        ("swav", 22_672, {}, 3_840),
        ("swav", 2_000, {}, 1_920),  # 15 batches: less than an epoch
        ("swav", 2_000, {"swav.queue_share": 0}, 3_840),
        ("swav", 2_000, {"swav.queue": 0}, 0),
        ("spark", 2_000, {}, 0),
    ],
)
def test_a_queue_is_cut_for_small_data_sets(method, slices, overrides, length):
    assert resolve(method, overrides=overrides).queue_length(slices) == length


def test_a_preset_that_does_not_exist():
    with pytest.raises(UsageError, match="preset 'fast' is unknown. Give one of recommended"):
        resolve("swav", "fast")


def test_configuring_loads_no_torch():
    program = "import sys, lim_gpu.pretrain.run, lim_gpu.pretrain.config as c; c.resolve('swav'); "
    subprocess.run([sys.executable, "-c", program + "assert 'torch' not in sys.modules"], check=True)
