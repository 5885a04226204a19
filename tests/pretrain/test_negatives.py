"""Weighed negatives against plain loops and the published formula; slices near a query, counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.moco import info_nce_logits
from lim_gpu.pretrain.negatives import near, positions_of, weighed
from lim_gpu.selection.selected import open_selected
from volumes import pixels, write_store

TEMPERATURE = 0.3


def logits(hidden_rows=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, queue = (normalize(torch.randn(n, 6, generator=generator, dtype=torch.float64), dim=1) for n in (7, 7, 12))
    hidden = torch.rand(7, 12, generator=generator) < 0.3
    hidden[list(hidden_rows)] = True
    return info_nce_logits(q.requires_grad_(), k, queue, hidden, TEMPERATURE), q


def plain(values, hardness, prior):
    """Robinson et al. 2021, equation 4 as their code has it, over the negatives that are left, in plain numbers."""
    total = 0.0
    for row in values.tolist():
        own, others = math.exp(row[0]), [math.exp(value) for value in row[1:] if value > -math.inf]
        count, negatives = len(others), 0.0
        if count:
            weights = [other**hardness for other in others]
            harder = count * sum(w * o for w, o in zip(weights, others, strict=True)) / sum(weights)
            negatives = (harder - count * prior * own) / (1 - prior)
            negatives = max(negatives, count * math.exp(-1 / TEMPERATURE)) if prior else negatives
        total -= math.log(own / (own + negatives))
    return total / len(values)


@pytest.mark.parametrize("hardness", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("prior", [0.0, 0.1, 0.6])
def test_the_loss_is_the_published_one(hardness, prior):
    values, q = logits(hidden_rows=[2])  # of which nothing is left
    loss = cross_entropy(weighed(values, hardness, prior, TEMPERATURE), torch.zeros(7, dtype=torch.int64))
    assert loss.item() == pytest.approx(plain(values, hardness, prior), rel=1e-12)
    loss.backward()
    assert bool(q.grad.isfinite().all())


def test_without_either_it_is_info_nce_itself():
    values, _q = logits()
    assert weighed(values, 0.0, 0.0, TEMPERATURE) is values
    almost = weighed(values, 1e-9, 0.0, TEMPERATURE)
    zeros = torch.zeros(7, dtype=torch.int64)
    assert cross_entropy(almost, zeros).item() == pytest.approx(cross_entropy(values, zeros).item(), rel=1e-7)


def test_large_logits_do_not_overflow():
    values = torch.tensor([[80.0, 100.0, -100.0, -torch.inf]])
    found = weighed(values, 1.0, 0.1, 0.01)
    assert found.isfinite().all()
    assert found[0, 1] == pytest.approx(100 + math.log(2) - math.log(0.9), rel=1e-5)


@pytest.mark.parametrize("mm", [0.5, 2.5, 5.0, 100.0])
def test_near_slices_are_those_of_the_same_volume_within_the_distance(mm):
    rng = np.random.default_rng(0)
    positions = torch.from_numpy(rng.permutation(np.arange(20) * 2.5).astype(np.float32))
    volume_of = torch.from_numpy(rng.integers(0, 3, 20))
    ids, others = torch.from_numpy(rng.integers(0, 20, 6)), torch.from_numpy(rng.integers(-1, 20, 15))
    theirs = torch.where(others >= 0, volume_of[others.clamp(min=0)], -1)
    found = near(positions, ids, volume_of[ids], others, theirs, mm)
    for b, i in enumerate(ids.tolist()):
        for place, j in enumerate(others.tolist()):
            same = j >= 0 and volume_of[i] == volume_of[j]
            assert found[b, place] == (same and abs(float(positions[i] - positions[j])) <= mm)


def test_positions_are_those_of_the_kept_slices(tmp_path):
    path = write_store(tmp_path / "s", [pixels(4), pixels(3)])
    with open_selected(path) as slices:
        assert positions_of(slices).tolist() == [0.0, 2.5, 5.0, 7.5, 0.0, 2.5, 5.0]


@pytest.mark.parametrize("bad", [{"hard_beta": -1}, {"class_prior": 1}, {"class_prior": -0.1}, {"mask_near_mm": -3}])
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(UsageError, match=f"moco.{next(iter(bad))}"):
        resolve("moco", overrides={f"moco.{name}": value for name, value in bad.items()})
