"""The header of a volume: strict JSON, and what stays true of selected slices."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.store.header import VolumeHeader
from volumes import header


def test_header_fields_are_checked(tmp_path):
    good = json.loads(header((1, 2, 3)).to_json())
    assert VolumeHeader.from_json(json.dumps(good).encode(), tmp_path) == header((1, 2, 3))
    for change in (
        {"key": "../../../../evil"},
        {"key": "0" * 16 + "\n"},
        {"shape": [1, 2]},
        {"shape": [1, 2, -3]},
        {"dtype": "object"},
        {"dtype": ["int16"]},
        {"spacing": [1, 2, "3"]},
        {"affine": [[1, 0, 0, 0]]},
        {"defects": []},
        {"padding": True},
        {"extra": 1},
    ):
        with pytest.raises(InputError):
            VolumeHeader.from_json(json.dumps(good | change).encode(), tmp_path)
    for text in (b"\xff", b"[]", b"{", b'{"a": NaN}'):
        with pytest.raises(InputError):
            VolumeHeader.from_json(text, tmp_path)


AFFINE = [[0.8, 0.0, 0.0, -200.0], [0.0, 0.9, 0.5, -180.0], [0.0, 0.0, 2.5, 40.0], [0.0, 0.0, 0.0, 1.0]]  # tilted


def whole(**values):
    return header((9, 12, 9), spacing=(2.5, 0.9, 0.8), affine=AFFINE, **values)


@pytest.mark.parametrize("kept", [range(9), range(0, 9, 2), range(1, 9, 3), range(3, 7)])
def test_even_choices_keep_an_exact_affine(kept):
    kept = list(kept)
    z = 40 + np.arange(9) * 2.5
    selected = whole().selected(kept, z, "d", "f")
    assert selected.shape == (len(kept), 12, 9)
    assert (selected.selected_from, selected.fingerprint) == ("d", "f")
    assert selected.spacing == (2.5 * (kept[1] - kept[0]), 0.9, 0.8)
    assert selected.defects == {}
    for new, old in enumerate(kept):
        voxel = np.array([4, 5, old, 1])
        np.testing.assert_allclose(np.array(selected.affine) @ [4, 5, new, 1], np.array(AFFINE) @ voxel, atol=1e-12)


def test_uneven_choices_say_so():
    selected = whole(defects={"gaps": [[3, 7.5]], "gantry_tilt": 11.3}).selected(
        [0, 1, 2, 6], np.arange(9) * 2.5, "", ""
    )
    assert selected.defects == {"gantry_tilt": 11.3, "uneven_spacing": {"min": 2.5, "max": 10.0}}
    assert selected.spacing == (2.5, 0.9, 0.8)


def test_one_slice_and_images_without_geometry():
    z = np.arange(9) * 2.5
    assert whole().selected([0], z, "", "").affine == AFFINE
    moved = np.array(whole().selected([4], z, "", "").affine)
    np.testing.assert_allclose(moved @ [0, 0, 0, 1], np.array(AFFINE) @ [0, 0, 4, 1])
    image = header((9, 12, 9), spacing=None, affine=None).selected([2, 5], np.arange(9.0), "", "")
    assert (image.spacing, image.affine, image.shape) == (None, None, (2, 12, 9))
