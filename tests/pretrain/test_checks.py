"""What makes no sense in a configuration is refused by the name of the setting."""

from __future__ import annotations

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import resolve


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("byol", {}, "method 'byol' is unknown. Give one of swav, moco, spark"),
        ("swav", {"learning_rate": 1}, "setting 'learning_rate' is unknown"),
        ("swav", {"swav.k": 1}, "setting 'swav.k' is unknown"),
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
        ("swav", {"swav.queue_from_step": 9, "swav.queue_from_epoch": 2}, "exclude each other"),
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
