"""A few of many: different, from end to end, and evenly."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.reduction.picture import THUMBNAIL, thumbnail_places
from lim_gpu.spread import spread_evenly

MANY = (*range(1, 200), 1000, 4096, 244_527, 10**7 + 1)


@pytest.mark.parametrize("n", MANY)
def test_places_are_different_and_even(n):
    for most in (*range(1, 40), 128, 512):
        places = spread_evenly(n, most)
        count = min(n, most)
        assert len(places) == count
        assert places[0] == 0
        if count > 1:
            exact = np.arange(count) * (n - 1) / (count - 1)
            assert places[-1] == n - 1
            assert np.abs(places - exact).max() <= 0.5 + 1e-9
            assert np.diff(places).min() >= 1


def test_none_of_nothing():
    assert spread_evenly(0, 5).tolist() == []


@pytest.mark.parametrize("n", MANY)
def test_thumbnails_show_the_beginning_of_equal_parts(n):
    count = min(n, THUMBNAIL)
    assert thumbnail_places(n).tolist() == [i * n // count for i in range(count)]
