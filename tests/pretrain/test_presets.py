"""The presets say what the tables of the paper and the published code say."""

from __future__ import annotations

from lim_gpu.pretrain.config import resolve


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
