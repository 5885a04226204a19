"""Pairs of next-slice: neighbours of one volume that are near enough, streamed or on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lim_gpu
from lim_gpu.errors import InputError
from lim_gpu.pretrain.pairs import paired
from lim_gpu.pretrain.resident import ResidentSlices, StreamedSlices
from lim_gpu.selection.selected import open_selected
from lim_gpu.store.slices import SliceStore


def test_a_pair_is_of_one_volume_and_the_last_slice_has_none(store):
    with open_selected(store) as slices:
        found = paired(slices, 1.0)
        assert len(found) == len(slices) - len(slices.volumes)
        assert np.array_equal(found.following - found.places, np.tile([0, 1], (len(found), 1)))


def test_dropped_slices_are_bridged_as_far_as_allowed(store, tmp_path):
    with SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=tmp_path / "half.csv")
    with open_selected(store, tmp_path / "half.csv") as slices:
        assert (np.diff(paired(slices, 2.0).following[:, 1]) != 1).all()
        with pytest.raises(InputError, match=r"half.csv: no two kept slices of a volume are within 1.5 mm. Give --set"):
            paired(slices, 1.5)


def test_both_of_a_pair_come_together(store):
    with open_selected(store) as slices:
        pairs = paired(slices, 1.0)
        streamed = StreamedSlices(pairs)
        order = [torch.tensor([3, 30, 0]), torch.tensor([12, 13, 20])]
        for a, b in zip(streamed.batches(order), ResidentSlices.of(streamed).batches(order), strict=True):
            for number, image, following in zip(a.ids.tolist(), a.pixels, a.following, strict=True):
                volume, i = pairs.places[number]
                grey = [slices.store[volume].grey(int(i) + ahead) for ahead in (0, 1)]
                height, width = grey[0].shape
                assert np.array_equal(image[:height, :width], grey[0])
                assert np.array_equal(following[:height, :width], grey[1])
            assert torch.equal(a.following, b.following)
            assert torch.equal(a.pixels, b.pixels)
