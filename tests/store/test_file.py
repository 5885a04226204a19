"""The volume format: round trip, and what a damaged, cut, foreign or hostile file does (nothing)."""

from __future__ import annotations

import errno
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.store import file as file_module
from lim_gpu.store.file import VolumeFile, volume_digest
from lim_gpu.store.writer import VolumeWriter
from volumes import forked, header, pixels, read_all, write_volume

KEY = "0" * 16


@pytest.mark.usefixtures("way")
def test_random_damage_gives_an_error_or_the_right_pixels(written):
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    right = pixels()
    for case in range(600):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole)))
        kind = case % 5
        if kind == 0:
            damaged[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            damaged[at] = int(rng.integers(256))
        elif kind == 2:
            del damaged[at:]
        elif kind == 3:
            damaged[at : at + 64] = bytes(len(damaged[at : at + 64]))
        else:
            damaged[at : at + 16] = b"\xff" * len(damaged[at : at + 16])
        written.write_bytes(damaged)
        try:
            volume, z, head = read_all(written)
        except InputError as error:
            complaint = str(error)
        else:
            assert kind != 2  # nothing stands behind the pixels: a file that was cut is refused
            np.testing.assert_array_equal(volume, right)
            np.testing.assert_array_equal(z, np.arange(5) * 2.5)
            assert head == header(right.shape)
            continue
        assert str(written) in complaint
        assert "\n" not in complaint


@pytest.mark.usefixtures("way")
def test_verify_finds_what_fletcher32_does_not(tmp_path):
    """fletcher32 sums modulo 65,535, so 0x0000 and 0xFFFF (int16 -1) look alike to it."""
    volume = pixels()
    volume[2, 0, 0] = 0
    write_volume(tmp_path, volume)
    path = tmp_path / f"{KEY}.h5"
    with h5py.File(path, "r") as file:
        offset = file["slices"].id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = b"\xff\xff"
    path.write_bytes(data)
    with VolumeFile(path, KEY) as file:
        assert file.read()[2, 0, 0] == -1
        with pytest.raises(InputError, match="slice 2"):
            file.verify()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ["int16", "uint8"])
@pytest.mark.parametrize("byte", [0, 255])
def test_a_lost_block_is_found_when_it_is_read(tmp_path, dtype, byte):
    """A chunk of zeros has a checksum of zero, and one of ones has ones: both lost, fletcher32 sees nothing."""
    write_volume(tmp_path, pixels(dtype=dtype))
    path = tmp_path / f"{KEY}.h5"
    with h5py.File(path, "r") as file:
        chunk = file["slices"].id.get_chunk_info(2)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes([byte]) * chunk.size
    path.write_bytes(data)
    with VolumeFile(path, KEY) as file:
        file.read(0, 2)
        with pytest.raises(InputError, match=r"slice 2 .*Delete the file|fletcher32.*Delete the file"):
            file.read()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_blank_slices_are_read(tmp_path, dtype):
    volume = np.stack([np.full((12, 9), value) for value in (0, -1, 1)]).astype(dtype)
    write_volume(tmp_path, volume)
    np.testing.assert_array_equal(read_all(tmp_path / f"{KEY}.h5")[0], volume)


def test_an_unfinished_or_renamed_or_later_file_is_refused(written, tmp_path):
    with pytest.raises(InputError, match=f"holds volume {KEY}"):
        VolumeFile(written, "1" * 16)
    with pytest.raises(InputError, match="digest"):
        VolumeFile(written, KEY, volume_digest(b"", np.zeros(1), []))
    for name, value in (("complete", 0), ("version", 2), ("format", np.bytes_(b"other"))):
        with h5py.File(written, "r+") as file:
            before = file.attrs[name]
            file.attrs[name] = value
        with pytest.raises(InputError, match="not a complete volume"):
            read_all(written)
        with h5py.File(written, "r+") as file:
            file.attrs[name] = before


def test_writing_and_reading_slice_by_slice_take_little_memory(tmp_path):
    """150 MB of pixels within 50 MB: what counts is a slice."""
    image = pixels(1, 512, 512)[0]

    def write_and_read():
        with VolumeWriter(tmp_path, KEY, 300, 512, 512, "int16", None) as writer:
            for _ in range(300):
                writer.append(image)
            writer.finish(header((300, 512, 512)), np.arange(300.0))
        with VolumeFile(tmp_path / f"{KEY}.h5", KEY) as file:
            for i in range(300):
                file.read(i, i + 1)

    assert forked(write_and_read, memory=50 << 20) == 0


@pytest.mark.parametrize("number", file_module.NO_LOCKS)
def test_file_systems_without_locks_are_read(written, monkeypatch, number):
    """Lustre, DVS and some NFS: HDF5 refuses to open what it cannot lock."""
    opened = h5py.File

    def without_locks(*arguments, locking=None, **options):
        if locking is not False:
            raise OSError(number, "unable to lock file")
        return opened(*arguments, locking=locking, **options)

    monkeypatch.setattr(h5py, "File", without_locks)
    np.testing.assert_array_equal(read_all(written)[0], pixels())


def test_a_file_that_another_program_writes_is_named(written):
    program = f"import h5py, sys; f = h5py.File({str(written)!r}, 'r+'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="locked by another program"):
            read_all(written)
        other.stdin.close()


def test_a_file_that_may_not_be_read_is_no_reason_to_ingest(written, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Unable to synchronously open file (errno = 13)")

    monkeypatch.setattr(file_module.h5py, "File", refuse)
    with pytest.raises(InputError, match="Permission denied. Change its permissions$"):
        VolumeFile(written, KEY)
