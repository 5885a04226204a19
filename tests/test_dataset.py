"""The torch data set: what it holds, workers, transforms, selections of another store."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lim_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.selection.selected import open_selected
from volumes import pixels, write_store

VOLUMES = [pixels(6, seed=3), pixels(4, seed=4)]
ARRAYS = ("z", "kept", "rank", "similarity")


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
    for item in dataset:  # handles are open before the workers start
        assert item.shape == (1, 12, 9)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start)
    together = torch.cat(list(loader))
    np.testing.assert_array_equal(together.numpy(), torch.stack([dataset[i] for i in range(5)]).numpy())


def test_a_selection_of_another_store_is_refused(path, selection, tmp_path):
    other = write_store(tmp_path / "other", VOLUMES[::-1])
    with pytest.raises(InputError, match="another store"):
        lim_gpu.SliceDataset(other, selection)


def test_a_selection_that_names_more_than_there_is_is_refused(path, selection):
    record = lim_gpu.Selection.load(selection)
    longer = replace(record.volumes[1], **{name: np.repeat(getattr(record.volumes[1], name), 2) for name in ARRAYS})
    longer = replace(longer, covered_by=[*longer.covered_by] * 2)
    lim_gpu.Selection((record.volumes[0], longer), record.record).save(selection)
    with pytest.raises(InputError, match=f"names slice 4 of volume {1:016x}"):
        lim_gpu.SliceDataset(path, selection)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_volume_is_named_through_a_loader(path, workers):
    os.truncate(path / "volumes" / f"{1:016x}.h5", 1000)
    loader = DataLoader(lim_gpu.SliceDataset(path), batch_size=3, num_workers=workers)
    with pytest.raises(InputError, match=f"{1:016x}.h5: "):
        list(loader)


def test_slices_that_were_selected_already(path, selection):
    slices = open_selected(path, selection)
    dataset = lim_gpu.SliceDataset(slices)
    assert dataset.store is slices.store
    np.testing.assert_array_equal(dataset.places, lim_gpu.SliceDataset(path, selection).places)
    assert torch.equal(dataset[3], lim_gpu.SliceDataset(path, selection)[3])


def test_places_from_the_end_and_beyond(path):
    dataset = lim_gpu.SliceDataset(path)
    np.testing.assert_array_equal(dataset[-1].numpy(), VOLUMES[1][3][None])
    assert dataset.place(-1) == (f"{1:016x}", 3)
    with pytest.raises(IndexError):
        dataset[10]
    with pytest.raises(IndexError):
        dataset.place(10)


def test_a_window_on_values_that_are_no_hu_is_refused(tmp_path):
    mr = write_store(tmp_path / "s", [pixels()], modality="MR", unit="stored")
    with pytest.raises(UsageError, match=r"no HU in 1 volume \(MR\)"):
        lim_gpu.SliceDataset(mr, intensity=Intensity.parse(window="lung"))
    assert lim_gpu.SliceDataset(mr, intensity=Intensity())[0].dtype == torch.uint8


def test_volumes_of_8_bits_stay_as_they_are(tmp_path):
    volume = pixels(dtype="uint8")
    path = write_store(tmp_path / "slices", [volume])
    for intensity in (None, Intensity.parse(window="lung")):
        item = lim_gpu.SliceDataset(path, intensity=intensity)[2]
        assert item.dtype == torch.uint8
        np.testing.assert_array_equal(item.numpy(), volume[2][None])


def test_open_objects_and_names_are_taken(path, selection):
    named = lim_gpu.SliceDataset(path, selection, intensity="lung")
    with lim_gpu.SliceStore(path) as store:
        opened = lim_gpu.SliceDataset(
            store, lim_gpu.Selection.load(selection), intensity=Intensity.parse(window="lung")
        )
        assert opened.store is store
        for a, b in zip(named, opened, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert named[0].dtype == torch.uint8


@pytest.mark.parametrize("intensity", ["elbow", 40, "400:-1000"])
def test_an_intensity_that_is_none_is_refused_at_once(path, intensity):
    with pytest.raises(UsageError):
        lim_gpu.SliceDataset(path, intensity=intensity)
