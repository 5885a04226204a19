"""The torch data set: what it holds, workers, transforms, selections of another store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from volumes import pixels, write_store

import lim_gpu
from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity

VOLUMES = [pixels(6, seed=3), pixels(4, seed=4)]


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "slices", VOLUMES)


@pytest.fixture
def selection(path, tmp_path):
    with lim_gpu.SliceStore(path) as store:
        lim_gpu.reduce(store, "every-n", keep=0.5, output=tmp_path / "s.csv")
    return tmp_path / "s.csv"


def test_all_slices_without_a_selection(path):
    dataset = lim_gpu.SliceDataset(path)
    assert len(dataset) == 10
    assert dataset[7].dtype == torch.int16
    np.testing.assert_array_equal(dataset[7].numpy(), VOLUMES[1][1][None])
    assert dataset.place(7) == (f"{1:016x}", 1)


def test_the_selection_transform_and_intensity(path, selection):
    dataset = lim_gpu.SliceDataset(path, selection, transform=lambda t: t.float() / 255, intensity=Intensity.parse())
    assert [dataset.place(i)[1] for i in range(len(dataset))] == [0, 2, 4, 0, 2]
    expected = Intensity.parse().to_uint8(VOLUMES[0])[2][None] / np.float32(255)
    np.testing.assert_array_equal(dataset[1].numpy(), expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same(path, selection, start):
    dataset = lim_gpu.SliceDataset(path, selection)
    dataset[0]  # a handle is open before the workers start
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start)
    together = torch.cat(list(loader))
    np.testing.assert_array_equal(together.numpy(), torch.stack([dataset[i] for i in range(5)]).numpy())


def test_a_selection_of_another_store_is_refused(path, selection, tmp_path):
    other = write_store(tmp_path / "other", VOLUMES[::-1])
    with pytest.raises(InputError, match="another store"):
        lim_gpu.SliceDataset(other, selection)
