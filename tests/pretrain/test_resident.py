"""Slices on the device and slices that stream: the same batches to the bit, equal to what the store holds."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch

import lim_gpu
from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain import resident
from lim_gpu.pretrain.resident import ResidentSlices, StreamedSlices, placed
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import open_selected
from volumes import pixels, write_store

VOLUMES = (pixels(7, 12, 19), pixels(4, 20, 16, seed=1), pixels(5, 8, 8, seed=2, dtype="uint8"))
KINDS = {
    "resident": lambda *of: ResidentSlices.of(StreamedSlices(*of)),
    "streamed": StreamedSlices,
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "slices", VOLUMES)


@pytest.fixture
def selection(store, tmp_path):
    with lim_gpu.SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, device="cpu").save(tmp_path / "half.csv")
    return tmp_path / "half.csv"


def expected(volume, i, intensity=None):
    image = (intensity or Intensity()).to_uint8(VOLUMES[volume][i : i + 1])[0]
    padded = np.zeros((20, 19), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded, image.shape


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("intensity", [None, Intensity.parse(window="lung")])
def test_batches_hold_the_slices_of_the_store(store, kind, intensity, device):
    slices = KINDS[kind](open_selected(store), device, intensity)
    assert len(slices) == 16
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).split(5)
    batches = list(slices.batches(order))
    assert [len(batch.pixels) for batch in batches] == [5, 5, 5, 1]
    places = [(v, i) for v, volume in enumerate(VOLUMES) for i in range(len(volume))]
    for ids, batch in zip(order, batches, strict=True):
        assert batch.pixels.device.type == batch.ids.device.type == batch.volumes.device.type == device
        assert batch.sizes.device.type == "cpu"
        assert batch.pixels.dtype == torch.uint8
        assert torch.equal(batch.ids.cpu(), ids)
        for row, number in enumerate(ids.tolist()):
            image, size = expected(*places[number], intensity)
            np.testing.assert_array_equal(batch.pixels[row].cpu().numpy(), image)
            assert tuple(batch.sizes[row].tolist()) == size
            assert batch.volumes[row] == places[number][0]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_selected_slices_are_there(store, selection, kind):
    kept = [(int(key, 16), i) for key, i in lim_gpu.Selection.load(selection).kept()]
    slices = KINDS[kind](open_selected(store, selection))
    assert 0 < len(slices) == len(kept) < 16
    (batch,) = slices.batches([torch.arange(len(kept))])
    assert batch.volumes.tolist() == [volume for volume, _ in kept]
    for image, place in zip(batch.pixels, kept, strict=True):
        np.testing.assert_array_equal(image.numpy(), expected(*place)[0])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_empty_selection_is_refused(store, selection, kind):
    loaded = lim_gpu.Selection.load(selection)
    for volume in loaded.volumes:
        volume.kept[:] = False
    loaded.save(selection)
    with pytest.raises(InputError, match=r"half\.csv: holds no slice to train on. Run lim-gpu reduce"):
        KINDS[kind](open_selected(store, selection))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_damaged_volume_is_named(store, kind):
    os.truncate(store / "volumes" / f"{1:016x}.h5", 1000)
    with pytest.raises(InputError, match=f"{1:016x}.h5: "):
        list(KINDS[kind](open_selected(store)).batches(torch.arange(16).split(4)))


def test_streaming_reads_ahead_and_no_further(store, monkeypatch):
    """While a batch is worked on the next are read; when the work ends early nothing goes on."""
    read, started = [], threading.Event()
    before = set(threading.enumerate())  # other tests leave epochs behind that read on into the next
    original = StreamedSlices._read

    def noted(self, dataset, number, place):
        read.append(number)
        if len(read) > 2:
            started.set()
        original(self, dataset, number, place)

    monkeypatch.setattr(StreamedSlices, "_read", noted)
    batches = StreamedSlices(open_selected(store)).batches(torch.arange(16).split(2))
    next(batches)
    assert started.wait(800), "nothing was read ahead"
    deadline = time.monotonic() + 800
    while len(read) < 2 * (1 + resident.AHEAD) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(read) == list(range(2 * (1 + resident.AHEAD)))
    batches.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("slices")]


def test_what_fits_is_loaded_and_what_does_not_streams(store, capsys):
    needed = 16 * 20 * 19
    streamed = StreamedSlices(open_selected(store))
    assert streamed.shape.numel() == needed
    assert isinstance(placed(streamed), ResidentSlices)
    assert isinstance(placed(streamed, needed, Reporter()), ResidentSlices)
    assert "16 slices (0.00 GiB) go to cpu" in capsys.readouterr().err
    assert isinstance(placed(streamed, needed - 1, Reporter()), StreamedSlices)
    assert "stream from the store" in capsys.readouterr().err


def test_free_memory_is_a_part_of_what_the_machine_has():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**26 < resident.free_memory(torch.device("cpu")) <= whole


def test_memory_that_ends_is_one_line(store):
    streamed = StreamedSlices(open_selected(store))
    streamed.shape = torch.Size((2**40, 512, 512))
    with pytest.raises(LimGpuError, match="cpu: .* GiB of slices do not fit in its memory. Give --stream") as error:
        ResidentSlices.of(streamed)
    assert "\n" not in str(error.value)


def test_loading_can_be_interrupted(store, monkeypatch):
    """Progress is where an interruption strikes."""

    class Interrupted(Reporter):
        def track(self, description, total, unit):
            from contextlib import nullcontext

            def advance(_count):
                raise KeyboardInterrupt

            return nullcontext(advance)

    with pytest.raises(KeyboardInterrupt):
        ResidentSlices.of(StreamedSlices(open_selected(store)), Interrupted())


@pytest.mark.gpu
def test_more_than_two_gibibytes_on_the_gpu():
    """Places beyond what 32 bits count."""
    slices = torch.zeros((8400, 512, 512), dtype=torch.uint8, device="cuda")
    slices[:] = (torch.arange(8400, device="cuda") % 251).to(torch.uint8)[:, None, None]
    there = ResidentSlices(slices, torch.full((8400, 2), 512), torch.zeros(8400, dtype=torch.int64))
    (batch,) = there.batches([torch.tensor([8399, 0, 8200])])
    assert batch.pixels[:, 511, 511].tolist() == [8399 % 251, 0, 8200 % 251]
