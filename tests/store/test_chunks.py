"""Pixels read past HDF5: the same as through it, or an error; in threads, and while the file is closed."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from lim_gpu.errors import InputError
from lim_gpu.store import chunks as chunks_module
from lim_gpu.store.checksum import stored
from lim_gpu.store.chunks import BLANK, blank
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.fletcher import of_slices, reduced
from lim_gpu.store.writer import VolumeWriter
from volumes import pixels, stored_checksums, write_volume

KEY = "0" * 16


@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["u1", "<i2"]), st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_checksums_are_those_of_hdf5(n, height, width, dtype, seed):
    slices = np.frombuffer(np.random.default_rng(seed).bytes(n * height * width * 2), dtype)[: n * height * width]
    slices = slices.reshape(n, height, width)
    np.testing.assert_array_equal(of_slices(slices), reduced(stored_checksums(slices)))


@pytest.mark.parametrize("dtype", ["u1", "<i2"])
@pytest.mark.parametrize("value", [0, -1, 1])
def test_checksums_of_extreme_slices(dtype, value):
    slices = np.full((2, 515, 301), value).astype(dtype)  # an odd number of bytes of u1
    slices[1, 0, 0] = 3
    np.testing.assert_array_equal(of_slices(slices), reduced(stored_checksums(slices)))


def test_the_largest_slice_does_not_overflow():
    slices = np.full((1, 4096, 4096), -1, "<i2")
    slices[0, -1, -1] = 7
    np.testing.assert_array_equal(of_slices(slices), reduced(stored_checksums(slices)))


@pytest.mark.parametrize("dtype", ["u1", "<i2"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (12, 9), (515, 301)], ids=str)
def test_the_sums_of_blank_slices_tell_them(shape, dtype):
    slices = np.stack([np.full(shape, value) for value in (0, -1)]).astype(dtype)
    assert all(map(blank, slices))
    assert np.isin(of_slices(slices), BLANK).all()


@pytest.fixture
def written(tmp_path) -> Path:
    write_volume(tmp_path, pixels(700, 12, 9))
    return tmp_path / f"{KEY}.h5"


def test_blocks_are_read_past_hdf5_and_single_slices_through_it(written, monkeypatch):
    seen = []
    monkeypatch.setattr(h5py.Dataset, "read_direct", lambda *given: seen.append(given) or given[1].fill(0))
    with VolumeFile(written, KEY) as file:
        np.testing.assert_array_equal(file.read(), pixels(700, 12, 9))  # more chunks than one call takes
        np.testing.assert_array_equal(file.read(3, 5), pixels(700, 12, 9)[3:5])
        assert not seen
        with pytest.raises(InputError, match="slice 4"):  # zeros, as the line above made them
            file.read(4, 5)
        assert seen


def test_calls_that_give_less_are_repeated(written, monkeypatch):
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, buffers, at: real(descriptor, [buffers[0][:7]], at))
    with VolumeFile(written, KEY) as file:
        np.testing.assert_array_equal(file.read(0, 20), pixels(700, 12, 9)[:20])


def test_slices_that_lie_in_another_order(tmp_path, monkeypatch):
    """A writer may store them as it likes: here backwards."""
    late: list[np.ndarray] = []

    def backwards(writer, slice_):
        late.append(slice_.copy())
        writer._checksums.append(stored(slice_))
        if len(late) == 30:
            for place in reversed(range(30)):
                writer._slices[place] = late[place]

    monkeypatch.setattr(VolumeWriter, "_write_plain", backwards)
    write_volume(tmp_path, pixels(30))
    monkeypatch.undo()
    with VolumeFile(tmp_path / f"{KEY}.h5", KEY) as file:
        assert (np.diff(file._chunks._offsets) < 0).all()
        np.testing.assert_array_equal(file.read(), pixels(30))


def test_a_wrong_checksum_names_the_slice_and_the_remedy(written):
    with VolumeFile(written, KEY) as file:
        offset = int(file._chunks._offsets[17])
    with open(written, "r+b") as raw:
        raw.seek(offset + 5)
        byte = raw.read(1)[0]
        raw.seek(offset + 5)
        raw.write(bytes([byte ^ 4]))
    with VolumeFile(written, KEY) as file, pytest.raises(InputError) as error:
        file.read()
    assert str(error.value).startswith(f"{written}: slice 17: its checksum does not match. Delete the file and run")


def test_a_file_that_is_cut_after_it_was_opened(written):
    with VolumeFile(written, KEY) as file:
        os.truncate(written, written.stat().st_size // 2)
        with pytest.raises(InputError, match="ends within its pixels"):
            file.read()
        with pytest.raises(InputError, match=f"^{written}: ends within its pixels. Delete the file"):
            file.read_unsummed(0, np.empty((700, 12, 9), np.int16))


def test_slices_are_compared_with_the_sums_that_are_given(written):
    out = np.empty((600, 12, 9), np.int16)  # more than one call takes
    with VolumeFile(written, KEY) as file:
        compare = file.read_unsummed(20, out)
        np.testing.assert_array_equal(out, pixels(700, 12, 9)[20:620])
        sums = of_slices(out)
        compare(sums)
        sums[577] ^= 1
        with pytest.raises(InputError, match="slice 597: its checksum does not match. Delete the file"):
            compare(sums)
        with pytest.raises(IndexError):
            file.read_unsummed(101, out)


def test_a_closed_file_is_never_another_one(tmp_path, monkeypatch):
    """Its descriptor's number goes to the next file that is opened, which has valid slices in the same places."""
    first, second = pixels(8, 64, 64), pixels(8, 64, 64, seed=1)
    for name, volume in (("a", first), ("b", second)):
        write_volume(tmp_path / name, volume)
    begun, go_on = threading.Event(), threading.Event()
    real = chunks_module._read_all

    def waiting(*arguments):
        begun.set()
        assert go_on.wait(30)
        real(*arguments)

    monkeypatch.setattr(chunks_module, "_read_all", waiting)
    file = VolumeFile(tmp_path / "a" / f"{KEY}.h5", KEY)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(file.read)
        assert begun.wait(30)
        file.close()
        with VolumeFile(tmp_path / "b" / f"{KEY}.h5", KEY):
            go_on.set()
            np.testing.assert_array_equal(reading.result(), first)
    with pytest.raises(InputError, match="closed before it was read"):
        file.read()


def test_several_threads_read_one_file(written):
    expected = pixels(700, 12, 9)
    with VolumeFile(written, KEY) as file, ThreadPoolExecutor(4) as pool:
        open_before = len(os.listdir("/proc/self/fd"))
        for start, found in enumerate(pool.map(lambda i: file.read(i, i + 50), range(400))):
            np.testing.assert_array_equal(found, expected[start : start + 50])
        assert len(os.listdir("/proc/self/fd")) == open_before
