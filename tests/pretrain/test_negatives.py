"""Weighed negatives against plain loops and the published formula; slices near or like a query, one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from lim_gpu.dataset import SliceDataset
from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.moco import info_nce_logits
from lim_gpu.pretrain.negatives import bits_apart, hashes_of, near, positions_of, share_of, weighed
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import open_selected
from lim_gpu.similarity.hash import dhash_of
from volumes import pixels, write_store

TEMPERATURE = 0.3


def logits(hidden_rows=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, queue = (normalize(torch.randn(n, 6, generator=generator, dtype=torch.float64), dim=1) for n in (7, 7, 12))
    hidden = torch.rand(7, 12, generator=generator) < 0.3
    hidden[list(hidden_rows)] = True
    return info_nce_logits(q.requires_grad_(), k, queue, hidden, TEMPERATURE), q


def plain(values, hardness, prior, shares=None):
    """Robinson et al. 2021, equation 4 as their code has it, over the negatives that are left, in plain numbers.

    shares: how much each negative counts; a negative of 0.5 is half a negative.
    """
    total = 0.0
    for row, counts in zip(values.tolist(), (torch.ones(7, 12) if shares is None else shares).tolist(), strict=True):
        own, others = math.exp(row[0]), [math.exp(value) for value in row[1:]]
        count = sum(c for c, other in zip(counts, others, strict=True) if other)
        negatives = 0.0
        if count:
            weights = [c * other**hardness if other else 0.0 for c, other in zip(counts, others, strict=True)]
            harder = count * sum(w * o for w, o in zip(weights, others, strict=True)) / sum(weights)
            negatives = (harder - count * prior * own) / (1 - prior)
            negatives = max(negatives, count * math.exp(-1 / TEMPERATURE)) if prior else negatives
        total -= math.log(own / (own + negatives))
    return total / len(values)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("hardness", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("prior", [0.0, 0.1, 0.6])
def test_the_loss_is_the_published_one(hardness, prior, shared):
    values, q = logits(hidden_rows=[2])  # of which nothing is left
    shares = torch.rand(7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if shared else None
    if shares is not None:
        shares[:, 5] = 0
        shares[4] = 0  # all of them the query's like
    weights = [values, hardness, prior, TEMPERATURE] + ([shares.log()] if shares is not None else [])
    loss = cross_entropy(weighed(*weights), torch.zeros(7, dtype=torch.int64))
    assert loss.item() == pytest.approx(plain(values, hardness, prior, shares), rel=1e-12)
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


def test_bits_apart_are_those_of_the_codes():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, 9, np.uint64)
    codes[:3] = 0, 2**64 - 1, 2**63  # the sign of int64 is a bit as any other
    found = bits_apart(*(torch.from_numpy(some.view(np.int64)) for some in (codes[:5], codes)))
    assert found.tolist() == [[(int(a) ^ int(b)).bit_count() for b in codes] for a in codes[:5]]


def test_a_negative_counts_as_far_as_it_is_another_image():
    found = share_of(torch.tensor([0.0, 3.0, 6.0, 18.0, 64.0]), 6.0).exp()
    assert found[0] == 0
    assert found.tolist() == pytest.approx([1 - math.exp(-(d**2) / 72) for d in (0, 3, 6, 18, 64)], rel=1e-6)


def test_hashes_are_those_of_the_slices_as_they_are_trained_on(tmp_path):
    path = write_store(tmp_path / "s", [pixels(4, 40, 30), pixels(3, 21, 50, seed=1)])
    intensity = Intensity.parse(window="lung")
    with open_selected(path) as slices:
        found = hashes_of(slices, intensity, Reporter(quiet=True)).numpy().view(np.uint64).tolist()
        images = SliceDataset(slices, intensity=intensity)
        assert found == [dhash_of(images[i][0].numpy()) for i in range(7)]


@pytest.mark.parametrize(
    "bad",
    [
        {"hard_beta": -1},
        {"class_prior": 1},
        {"class_prior": -0.1},
        {"mask_near_mm": -3},
        {"mask_hash_bits": -1},
        {"mask_hash_bits": 64},
        {"soft_hash_bits": -0.5},
    ],
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(UsageError, match=f"moco.{next(iter(bad))}"):
        resolve("moco", overrides={f"moco.{name}": value for name, value in bad.items()})
