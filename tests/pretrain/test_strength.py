"""The factor of the augmentation: what it changes, what it leaves, and that 1 changes no bit."""

from __future__ import annotations

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import resolve


@pytest.mark.parametrize(
    ("method", "preset"), [("swav", "recommended"), ("moco", "recommended"), ("moco", "wolf2024-code")]
)
def test_one_is_the_preset_itself(method, preset):
    assert resolve(method, preset, {"strength": 1}) == resolve(method, preset)
    assert resolve(method, preset, {"strength": "1.0"}) == resolve(method, preset)


def test_half_as_strong():
    before, after = resolve("moco").moco, resolve("moco", overrides={"strength": "0.5"}).moco
    assert (after.brightness, after.contrast) == (before.brightness / 2, before.contrast / 2)
    assert after.blur_sigma == tuple(end / 2 for end in before.blur_sigma)
    assert after.scale == (1 - 0.5 * (1 - before.scale[0]), before.scale[1])
    assert (after.jitter, after.blur, after.flip) == (before.jitter, before.blur, before.flip)


def test_a_crop_stays_within_its_bounds():
    weak, strong = (resolve("swav", overrides={"strength": s}).swav for s in (0.5, 1.5))
    before = resolve("swav").swav
    assert weak.small_scale == (before.small_scale[1],) * 2
    assert strong.small_scale == (0.02, before.small_scale[1])
    assert 0 < strong.large_scale[0] < before.large_scale[0] < weak.large_scale[0]


def test_what_is_set_stays_as_it_is_set():
    config = resolve("moco", overrides={"strength": 2, "moco.contrast": 0.3})
    assert (config.moco.contrast, config.moco.brightness) == (0.3, 0.8)


@pytest.mark.parametrize(
    ("method", "strength", "words"),
    [("moco", 0, "positive"), ("moco", "nan", "finite"), ("spark", 2, "swav and moco"), ("rotation", 0.5, "rotation")],
)
def test_a_strength_that_means_nothing_is_refused(method, strength, words):
    with pytest.raises(UsageError, match=words):
        resolve(method, overrides={"strength": strength})
