"""The configuration: what the presets say, what follows from an override, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import METHODS, PRESETS, PretrainConfig, parse_overrides, resolve


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_survives_json(method, preset):
    config = resolve(method, preset)
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.method, config.preset) == (method, preset)


def test_the_code_preset_is_the_schedule_that_ran():
    config = resolve("swav", "wolf2024-code")
    assert (config.schedule, config.cycle_steps, config.warmup_steps) == ("oscillating", 1580, 10)
    assert (config.swav.freeze_epochs, config.swav.freeze_iterations, config.swav.queue) == (313, 0, 0)
    assert (config.lr, config.batch_size, config.epochs, config.exclude_bias_and_norm) == (0.15, 128, 800, False)
    assert config.swav.flip == 0


def test_the_paper_preset_reads_the_tables():
    config = resolve("swav", "wolf2024-paper")
    assert (config.schedule, config.warmup_epochs, config.final_lr) == ("cosine", 10, 1.5e-4)
    assert (config.swav.freeze_iterations, config.swav.prototypes) == (313, 500)
    moco = resolve("moco", "wolf2024-paper")
    assert (moco.batch_size, moco.lr, moco.moco.temperature) == (64, 1e-4, 0.07)
    spark = resolve("spark", "wolf2024-paper")
    assert (spark.lr, spark.weight_decay, spark.final_weight_decay, spark.clip_grad_norm) == (2.5e-5, 0.04, 0.2, 5)


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


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("byol", {}, "method 'byol' is unknown. Give one of swav, moco, spark"),
        ("swav", {"learning_rate": 1}, "learning_rate is unknown"),
        ("swav", {"swav.k": 1}, "swav.k is unknown"),
        ("swav", {"moco.queue": 64}, "moco.queue belongs to another method"),
        ("swav", {"swav": "1"}, "swav is a group"),
        ("swav", {"preset": "x"}, "give --preset"),
        ("swav", {"lr": "fast"}, "lr='fast' is not a finite number"),
        ("swav", {"lr": "nan"}, "not a finite number"),
        ("swav", {"lr": 0}, "lr 0 trains nothing"),
        ("swav", {"epochs": "2.5"}, "epochs='2.5' is not a whole number"),
        ("swav", {"epochs": 0}, "epochs 0 is too small"),
        ("swav", {"batch_size": 1}, "batch_size 1"),
        ("swav", {"start_lr": 0.3}, "start_lr 0.3 is above lr 0.15"),
        ("swav", {"final_lr": 0.3}, "final_lr 0.3 is above lr 0.15"),
        ("swav", {"warmup_epochs": 900}, "warmup_epochs 900 is longer"),
        ("swav", {"warmup_epochs": 5, "warmup_steps": 5}, "exclude each other"),
        ("swav", {"precision": "16-true"}, "keeps weights in half"),
        ("swav", {"precision": "bf16-true"}, "keeps weights in half"),
        ("swav", {"precision": "8"}, "precision '8' is unknown"),
        ("swav", {"channels": 2}, "channels 2"),
        ("swav", {"mean": "0.1,0.2"}, "mean has 2 values for 3 channels. Give one of mean and one of std"),
        ("swav", {"swav.queue_share": -1}, "swav.queue_share -1 is too small"),
        ("swav", {"std": 0}, "std 0 cannot divide"),
        ("swav", {"swav.flip": 1.5}, "swav.flip 1.5 is outside 0..1"),
        ("swav", {"swav.large_scale": "0.9"}, "is not 2 numbers"),
        ("swav", {"swav.large_scale": "1,0.5"}, "is no range"),
        ("swav", {"swav.small_scale": "0.5,1.5"}, "more than the image"),
        ("swav", {"swav.temperature": 0}, "swav.temperature 0 is not positive"),
        ("swav", {"swav.large_crops": 1}, "at least 2"),
        ("swav", {"swav.freeze_epochs": 1, "swav.freeze_iterations": 1}, "exclude each other"),
        ("moco", {"moco.mlp": "maybe"}, "moco.mlp='maybe' is not true or false"),
        ("moco", {"moco.bn_groups": 0}, "moco.bn_groups 0 is too small"),
        ("spark", {"spark.size": 100}, "no multiple of 32"),
        ("spark", {"spark.mask_ratio": 1}, "masks all or none"),
        ("spark", {"spark.interpolation": "nearest"}, "'nearest' is unknown"),
        ("spark", {"optimizer": "adam"}, "optimizer 'adam' is unknown"),
    ],
)
def test_what_makes_no_sense_is_one_line(method, overrides, message):
    with pytest.raises(UsageError) as caught:
        resolve(method, overrides=overrides)
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_preset_that_does_not_exist():
    with pytest.raises(UsageError, match="preset 'fast' is unknown. Give one of recommended"):
        resolve("swav", "fast")


def test_set_options():
    assert parse_overrides(["lr=0.1", "swav.queue = 64"]) == {"lr": "0.1", "swav.queue": "64"}
    for texts, message in ((["lr"], "is not NAME=VALUE"), (["=1"], "is not NAME=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(UsageError, match=message):
            parse_overrides(texts)


def test_configuring_loads_no_torch():
    program = "import sys, lim_gpu.pretrain.run, lim_gpu.pretrain.config as c; c.resolve('swav'); "
    subprocess.run([sys.executable, "-c", program + "assert 'torch' not in sys.modules"], check=True)
