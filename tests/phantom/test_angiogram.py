"""Chests after contrast: seeded, findings where they belong and as bright as they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from lim_gpu.phantom import angiogram
from lim_gpu.phantom.angiogram import CLOT, EXPONENT, HILA, TIPS, TRUNK, VEINS, _arteries, _branches, _in_lung
from lim_gpu.phantom.bodies import LUNG, SOFT, lungs

SHAPE = (30, 128, 128)


@pytest.fixture(scope="module")
def chest():
    return angiogram(*SHAPE, seed=5)


def test_it_is_seeded(chest):
    again, other = angiogram(*SHAPE, seed=5), angiogram(*SHAPE, seed=6)
    for part in ("hu", "arteries", "emboli", "nodules"):
        np.testing.assert_array_equal(getattr(again, part), getattr(chest, part))
        assert (getattr(other, part) != getattr(chest, part)).any()
    assert chest.hu.dtype == np.int16
    assert chest.spacing == pytest.approx((200 / 29, 400 / 127, 400 / 127))


def test_emboli_are_dark_within_bright_arteries(chest):
    assert set(np.unique(chest.emboli)) == {0, 1, 2, 3}
    clot = chest.emboli > 0
    assert chest.arteries[clot].all()
    assert abs(np.percentile(chest.hu[clot], 10) - CLOT) < 25  # noise is 11, and partial volume brightens their edges
    blood = chest.arteries & ~binary_dilation(clot, iterations=2)
    assert np.percentile(chest.hu[blood], 75) > VEINS
    rim = binary_dilation(clot, iterations=2) & chest.arteries & ~clot
    assert chest.hu[rim].mean() > chest.hu[clot].mean() + 100


def test_nodules_are_soft_lumps_in_the_lung(chest):
    assert set(np.unique(chest.nodules)) == {0, 1, 2}
    for number in (1, 2):
        lump = chest.nodules == number
        assert label(lump)[1] == 1
        assert LUNG + 300 < chest.hu[lump].mean() < SOFT + 30
        around = binary_dilation(lump, iterations=3) & ~binary_dilation(lump)
        assert np.median(chest.hu[around]) < LUNG + 100


def test_in_coarse_voxels_findings_are_as_wide_as_they_show():
    coarse = angiogram(6, 48, 48, seed=1)  # slices lie 40 mm apart, and a nodule of a usual size would be on none
    assert set(np.unique(coarse.nodules)) == {0, 1, 2}


def test_no_finding_is_asked_for_and_none_is_there():
    plain = angiogram(12, 64, 64, seed=5, emboli=0, nodules=0)
    assert not plain.emboli.any()
    assert not plain.nodules.any()
    assert plain.arteries.any()


def test_arteries_fill_both_lungs_from_one_trunk(chest):
    parts, _ = label(chest.arteries)
    sizes = np.bincount(parts.ravel())[1:]
    assert sizes.max() > 0.5 * sizes.sum()  # the rest are branches thinner than a slice
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE[1:]), indexing="ij")
    inside = np.stack([lungs(i / 29, x, y) for i in range(30)])
    for side in (-1, 1):
        lung = inside & (side * x > 0)
        thirds = np.array_split(np.flatnonzero(lung.any((1, 2))), 3)
        assert all((chest.arteries & lung)[third].any() for third in thirds)


def test_powers_of_the_radii_add_up_at_a_fork_and_every_tip_is_reached():
    rng = np.random.default_rng(0)
    tips = _in_lung(1, 40, rng)
    tubes = [*_branches(tips, HILA[1], 8.0)]
    ends = {tuple(tube.end) for tube in tubes}
    assert ends >= {tuple(tip) for tip in tips}
    for tube in tubes:
        after = [one.radius**EXPONENT for one in tubes if one.start is tube.end]
        assert len(after) in (0, 2)
        if after:
            assert sum(after) == pytest.approx(tube.radius**EXPONENT)
    whole = [*_arteries(np.random.default_rng(0))]
    assert len(whole) == 4 + 2 * (2 * TIPS[350] - 1)
    assert max(tube.radius for tube in whole[1:]) == TRUNK


def test_tips_are_within_the_lungs_on_their_side():
    tips = _in_lung(-1, 50, np.random.default_rng(1)) / 200
    assert (tips[:, 0] < 0).all()
    assert lungs(tips[:, 2], tips[:, 0], tips[:, 1]).all()
