"""The reader of pixels: those that go to a GPU are summed there; and where the memory of a device runs out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.intensity import Intensity, cuda
from lim_gpu.intensity.mapping import VolumeMapping
from lim_gpu.phantom import phantom
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.pieces import UnreadableVolumeError
from lim_gpu.reduction.reader import Reader
from lim_gpu.similarity.hash import dhash
from lim_gpu.store import fletcher
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume
from volumes import pixels, write_store, write_volume


def hash_reader():
    return Reader(Criterion("hash", Intensity.parse()), torch.device("cpu"))


def test_pieces_that_do_not_fit_on_the_gpu_go_there_in_halves(monkeypatch):
    sizes, on_device = [], Reader._on_device

    def short_of_memory(self, slices, how):
        sizes.append(len(slices))
        if len(slices) > 2:
            raise torch.OutOfMemoryError
        return on_device(self, slices, how)

    monkeypatch.setattr(Reader, "_on_device", short_of_memory)
    slices = pixels(7, 20, 24)
    found = torch.cat(list(hash_reader()._in_halves(torch.from_numpy(slices), VolumeMapping())))
    np.testing.assert_array_equal(found, Intensity.parse().to_uint8(slices))
    assert sizes == [7, 4, 2, 2, 3, 2, 1]


def test_no_memory_for_one_slice_is_one_line(monkeypatch):
    def none_left(self, slices, how):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Reader, "_on_device", none_left)
    with pytest.raises(LimGpuError, match="^cpu: out of memory for one slice. Free memory, or use --device cpu$"):
        list(hash_reader()._in_halves(torch.zeros((3, 4, 4), dtype=torch.int16), VolumeMapping()))


VOLUMES = [pixels(7, 20, 24), pixels(5, 11, 9, dtype="uint8"), pixels(1, 12, 12), pixels(3, 1, 1)]
FOUND = r"^\S+: slice 3: its checksum does not match. Delete the file and run lim-gpu ingest again$"


@pytest.fixture
def gpu_or_emulated(engine, monkeypatch):
    """Where there is no GPU, pixels go to its kernels on the CPU."""
    if engine.device.type == "cpu":
        monkeypatch.setattr(cuda, "load", engine.module)
        monkeypatch.setattr(Reader, "_load", lambda self, piece: (self._sent(piece), None))


def sent(engine, volume, intensity=None):
    """What the device gets of a volume."""
    reader = Reader(Criterion("ssim", intensity or Intensity.parse()), engine.device)
    return torch.cat(list(reader.blocks(volume))).cpu().numpy()


@pytest.fixture
def no_sums_on_the_cpu(monkeypatch):
    monkeypatch.setattr(fletcher, "of_slices", lambda _: pytest.fail("the CPU sums what the GPU has summed"))


@pytest.fixture(params=range(len(VOLUMES)), ids=lambda i: str(VOLUMES[i].shape))
def volume(request, tmp_path):
    with SliceStore(write_store(tmp_path / "slices", [VOLUMES[request.param]])) as store:
        yield store[0]


@pytest.mark.usefixtures("gpu_or_emulated", "no_sums_on_the_cpu")
@pytest.mark.parametrize("intensity", [None, "lung", "volume-percentile"])
def test_what_goes_to_the_gpu_is_summed_there(engine, volume, request, intensity):
    slices, how = VOLUMES[request.node.callspec.params["volume"]], Intensity.of(intensity)
    np.testing.assert_array_equal(sent(engine, volume, how), how.of_volume(volume).to_uint8(slices))


@pytest.mark.usefixtures("gpu_or_emulated")
@pytest.mark.parametrize("window", [None, "lung"])
def test_the_body_alone_goes_to_the_gpu(engine, tmp_path, window):
    slices, how = phantom("chest", 4, 40, 44, seed=2), Intensity.parse(window=window, body=True)
    with SliceStore(write_store(tmp_path / "slices", [slices])) as store:
        np.testing.assert_array_equal(sent(engine, store[0], how), how.to_uint8(slices))
        hashes = Reader(Criterion("hash", how), torch.device("cpu"))._hashed((store[0], 0, 4))
    np.testing.assert_array_equal(hashes.view(np.uint64), dhash(how.to_uint8(slices)))


def damage(volume, change):
    """Slice 3 as it stands in the file, with its checksum, by `change`."""
    with h5py.File(volume.path, "r") as file:
        chunk = file["slices"].id.get_chunk_info(3)
    data = bytearray(volume.path.read_bytes())
    place = slice(chunk.byte_offset, chunk.byte_offset + chunk.size)
    data[place] = change(data[place])
    volume.path.write_bytes(data)


@pytest.fixture(params=VOLUMES[:2], ids=["int16", "an odd number of uint8"])
def longer_volume(request, tmp_path):
    with SliceStore(write_store(tmp_path / "slices", [request.param])) as store:
        yield store[0]


@pytest.mark.usefixtures("gpu_or_emulated", "no_sums_on_the_cpu")
@pytest.mark.parametrize("place", [0, 50, -5, -1], ids=["first", "within", "last", "checksum"])
def test_damage_is_found_on_the_gpu(engine, longer_volume, place):
    def changed(data):
        data[place] ^= 16
        return data

    damage(longer_volume, changed)
    with pytest.raises(UnreadableVolumeError, match=FOUND):
        sent(engine, longer_volume)


@pytest.mark.usefixtures("gpu_or_emulated")
@pytest.mark.parametrize("byte", [0, 255])
def test_a_lost_slice_is_the_same_error_as_on_the_cpu(engine, longer_volume, byte):
    damage(longer_volume, lambda data: bytes([byte]) * len(data))
    with pytest.raises(UnreadableVolumeError) as on_gpu:
        sent(engine, longer_volume)
    with pytest.raises(InputError) as on_cpu:
        longer_volume.read()
    assert str(on_gpu.value) == str(on_cpu.value)


@pytest.mark.usefixtures("gpu_or_emulated")
def test_what_the_gpu_has_no_room_for_is_summed_on_the_cpu(engine, longer_volume, monkeypatch):
    right, on_device, refused = longer_volume.read(), Reader._on_device, []

    def refuses_once(self, host, how, compare=None):
        if not refused:
            refused.append(host)
            raise torch.OutOfMemoryError
        return on_device(self, host, how, compare)

    monkeypatch.setattr(Reader, "_on_device", refuses_once)
    np.testing.assert_array_equal(sent(engine, longer_volume), Intensity.parse().to_uint8(right))
    damage(longer_volume, lambda data: bytes([data[0] ^ 1]) + data[1:])
    refused.clear()
    with pytest.raises(UnreadableVolumeError, match=FOUND):
        sent(engine, longer_volume)


@pytest.mark.usefixtures("gpu_or_emulated")
def test_compressed_slices_are_summed_by_hdf5(engine, tmp_path):
    entry = write_volume(tmp_path, VOLUMES[0], compression="deflate")
    with Volume(tmp_path / f"{entry.key}.h5", entry) as volume:
        np.testing.assert_array_equal(sent(engine, volume), Intensity.parse().to_uint8(VOLUMES[0]))
