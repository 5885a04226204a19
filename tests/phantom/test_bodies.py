"""The procedural CT: seeded, with the values and the redundancy of CT."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.phantom import phantom


@pytest.mark.parametrize("kind", ["chest", "abdomen", "head"])
def test_a_phantom_is_seeded_and_looks_like_ct(kind):
    volume = phantom(kind, 6, 64, 80, seed=1)
    assert volume.shape == (6, 64, 80)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume, phantom(kind, 6, 64, 80, seed=1))
    assert (volume != phantom(kind, 6, 64, 80, seed=2)).mean() > 0.5
    assert volume.min() == -1024  # padding outside the field of view
    assert (volume > 300).any()  # bone
    assert ((volume > 0) & (volume < 100)).mean() > 0.1  # soft tissue


def test_neighbouring_slices_are_more_alike_than_distant_ones():
    volume = phantom("chest", 30, 96, 96, seed=0).astype(float)
    near = [np.corrcoef(volume[i].ravel(), volume[i + 1].ravel())[0, 1] for i in range(29)]
    far = [np.corrcoef(volume[i].ravel(), volume[i + 15].ravel())[0, 1] for i in range(15)]
    assert np.mean(near) > np.mean(far) + 0.02
