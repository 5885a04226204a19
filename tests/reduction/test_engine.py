"""The engine over a store: reading ahead, batches of small volumes, and damaged volumes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lim_gpu.intensity import Intensity
from lim_gpu.reduction import reader
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.engine import StoredMatrix
from lim_gpu.reduction.pieces import UnreadableVolumeError, by_shape, pieces
from lim_gpu.reduction.reader import Reader
from lim_gpu.similarity import hash as difference_hash
from lim_gpu.similarity import similarity_matrix
from lim_gpu.store.slices import SliceStore
from reductions import cut_short
from volumes import pixels, write_store

CPU = torch.device("cpu")
SHAPES = ((7, 20, 24), (3, 16, 12), (9, 20, 24), (1, 20, 24), (4, 16, 12))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    volumes = [pixels(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    return write_store(tmp_path_factory.mktemp("stored") / "slices", volumes)


SIZE = 4 * 20 * 24  # bytes of two slices of 20 x 24


@pytest.fixture
def store(path):
    with SliceStore(path) as store:
        yield store


@pytest.fixture
def small_blocks(monkeypatch):
    """Two slices of 20 x 24 in a piece, and memory to read five ahead."""
    for name in ("BLOCK_BYTES", "CACHED_BYTES"):
        monkeypatch.setattr(reader, name, SIZE)
    monkeypatch.setattr(reader, "READ_AHEAD", 5 * 20 * 24)


def engine(method):
    return StoredMatrix(Criterion(method, Intensity.parse()), CPU)


def grey(volume):
    return Intensity.parse().to_uint8(volume.read())


def count_loads(monkeypatch):
    loads, load = [], Reader._load

    def counted(self, piece):
        loads.append((piece.volume.key, piece.start))
        return load(self, piece)

    monkeypatch.setattr(Reader, "_load", counted)
    return loads


def test_pieces_cover_a_volume_in_order(store, small_blocks):
    assert [piece[1:] for piece in pieces(store[0], SIZE)] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert [piece.pixels for piece in pieces(store[0], SIZE)] == [960, 960, 960, 480]
    assert [len(pieces(volume, SIZE)) for volume in store] == [4, 1, 5, 1, 1]


def test_volumes_by_shape(store):
    assert [[volume.key for volume in group] for group in by_shape(list(store))] == [
        [f"{i:016x}" for i in group] for group in ((0, 2, 3), (1, 4))
    ]


@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_every_unit_is_read_once_ahead_and_equals_the_matrix_of_its_slices(store, small_blocks, monkeypatch, method):
    loads = count_loads(monkeypatch)
    units = [[store[0], store[2]], [store[1]], [store[3]], [store[4]]]
    computing = engine(method)
    with computing.reading_ahead():
        for unit in units:
            computing.expect(unit)
        matrices = [computing.compute(unit) for unit in units]
    expected = [(p.volume.key, p.start) for unit in units for volume in unit for p in pieces(volume, SIZE)]
    assert sorted(loads) == sorted(expected)  # several threads read
    for unit, matrix in zip(units, matrices, strict=True):
        slices = np.concatenate([grey(volume) for volume in unit])
        assert torch.equal(matrix, similarity_matrix(slices, method, device="cpu"))
        assert torch.equal(matrix, engine(method).compute(unit))


@pytest.mark.parametrize("method", ["ssim", "mi"])
def test_slices_of_unequal_shape_are_minus_infinity(store, method):
    volumes = list(store)
    matrix = engine(method).compute(volumes)
    shape = np.repeat([volume.entry.shape[1] for volume in volumes], [volume.entry.shape[0] for volume in volumes])
    comparable = torch.from_numpy(shape[:, None] == shape)
    assert torch.equal(matrix.isneginf(), ~comparable)
    part = torch.from_numpy(np.flatnonzero(shape == 20))
    slices = np.concatenate([grey(store[i]) for i in (0, 2, 3)])
    assert torch.equal(matrix[part][:, part], similarity_matrix(slices, method, device="cpu"))


def test_hashes_are_the_bits_of_uint64(store):
    hashes = engine("hash").hashes(list(store))
    assert hashes.dtype == torch.int64
    expected = np.concatenate([difference_hash.dhash(grey(volume)) for volume in store])
    np.testing.assert_array_equal(hashes.numpy().view(np.uint64), expected)


@pytest.mark.parametrize(("block", "calls"), [(64 << 20, [17, 7]), (2 * 13 * 480, [7, 3, 10, 4]), (2, [1] * 24)])
def test_features_of_small_volumes_are_computed_together(store, monkeypatch, block, calls):
    monkeypatch.setattr(reader, "BLOCK_BYTES", block)
    sizes = []

    def sums(self, block):
        sizes.append(len(block))
        return block.flatten(1).long().sum(1)

    monkeypatch.setattr(StoredMatrix, "_features_of_block", sums)
    computing = engine("deepnet")
    with computing.reading_ahead():
        for volume in store:
            computing.expect([volume])
        features = [computing.hashes([volume]) for volume in store]
    assert sizes == calls
    for volume, found in zip(store, features, strict=True):
        np.testing.assert_array_equal(found.numpy(), grey(volume).reshape(len(found), -1).sum(1, dtype=np.int64))


@pytest.fixture
def damaged(path, tmp_path):
    """A copy of the store in which volume 2 is cut."""
    with SliceStore(shutil.copytree(path, tmp_path / "slices")) as store:
        cut_short(store, 2)
        yield store


@pytest.mark.parametrize("block", [64 << 20, 4 * 480])
@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_an_unreadable_volume_surfaces_in_its_own_unit(damaged, monkeypatch, method, block):
    for name in ("BLOCK_BYTES", "CACHED_BYTES"):
        monkeypatch.setattr(reader, name, block)
    computing = engine(method)
    with computing.reading_ahead():
        for volume in damaged:
            computing.expect([volume])
        for i, volume in enumerate(damaged):
            if i == 2:
                with pytest.raises(UnreadableVolumeError) as caught:
                    computing.compute([volume])
                assert caught.value.key == volume.key
            else:
                expected = similarity_matrix(grey(volume), method, device="cpu")
                assert torch.equal(computing.compute([volume]), expected)


@pytest.mark.parametrize("method", ["ssim", "hash"])
def test_a_unit_begins_again_without_the_volume_that_cannot_be_read(damaged, small_blocks, method):
    volumes, computing = list(damaged), engine(method)
    with computing.reading_ahead():
        computing.expect(volumes[:4])
        computing.expect(volumes[4:])
        with pytest.raises(UnreadableVolumeError):
            computing.compute(volumes[:4])
        rest = [volumes[i] for i in (0, 1, 3)]
        assert torch.equal(computing.compute(rest), engine(method).compute(rest))
        assert torch.equal(computing.compute(volumes[4:]), engine(method).compute(volumes[4:]))


def test_the_precision_of_deepnet_changes_the_fingerprint_of_deepnet_alone():
    def parameters(method, precision):
        return Criterion(method, Intensity.parse(), precision=precision).parameters()

    assert parameters("deepnet", "bfloat16")["precision"] == "bfloat16"
    assert parameters("deepnet", "float32") != parameters("deepnet", "bfloat16")
    assert parameters("ssim", "float32") == parameters("ssim", "bfloat16")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_the_gpu_reads_ahead_to_the_same_matrices(store, small_blocks, method):
    computing = StoredMatrix(Criterion(method, Intensity.parse()), torch.device("cuda", 0))
    with computing.reading_ahead():
        for volume in store:
            computing.expect([volume])
        for volume in store:
            matrix = computing.compute([volume])
            assert matrix.is_cuda
            torch.testing.assert_close(matrix.cpu(), engine(method).compute([volume]), rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_what_the_gpu_has_no_room_for_while_reading_ahead_goes_there_later(store, monkeypatch):
    computing = StoredMatrix(Criterion("hash", Intensity.parse()), torch.device("cuda", 0))
    on_device, refusals = Reader._on_device, []

    def refuse_once(self, host, how, compare=None):
        if not refusals:
            refusals.append(host)
            raise torch.OutOfMemoryError
        return on_device(self, host, how, compare)

    monkeypatch.setattr(Reader, "_on_device", refuse_once)
    volumes = list(store)
    with computing.reading_ahead():
        computing.expect(volumes)
        assert torch.equal(computing.hashes(volumes).cpu(), engine("hash").hashes(volumes))
    assert refusals
