"""The temperature against a search over all of them, and where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lim_gpu.finetune.calibration import HIGHEST, LOWEST, at_bound, fitted_temperature


def drawn(n, classes, sharpness, seed=0):
    """Logits that say what is true, and labels drawn of them, the logits then `sharpness` times too large."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return sharpness * logits, labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_it_finds_how_much_too_sure_a_network_is(classes, sharpness):
    logits, labels = drawn(20_000, classes, sharpness)
    assert fitted_temperature(logits, labels) == pytest.approx(sharpness, rel=0.05)


def test_no_other_temperature_is_better():
    logits, labels = drawn(200, 3, 2.5, seed=1)
    found = fitted_temperature(logits, labels)
    tried = np.geomspace(LOWEST, HIGHEST, 2000)
    losses = [float(cross_entropy(logits.double() / t, labels)) for t in tried]
    assert float(cross_entropy(logits.double() / found, labels)) <= min(losses) + 1e-9


def test_what_is_always_right_or_says_nothing_ends_at_the_bounds():
    logits = torch.eye(3)
    right, wrong = (fitted_temperature(logits, torch.tensor(labels)) for labels in ([0, 1, 2], [1, 2, 0]))
    assert (right, wrong) == (pytest.approx(LOWEST, rel=0.01), pytest.approx(HIGHEST, rel=0.01))
    assert [at_bound(found) for found in (right, wrong, 1.0, 19.0, 0.06)] == [True, True, False, False, False]
