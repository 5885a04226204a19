"""Volume files as they are written: whole or not at all, whatever ends the process or the disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import remove_stale
from lim_gpu.store import writer as writer_module
from lim_gpu.store.file import COMPRESSIONS, VolumeFile
from lim_gpu.store.writer import VolumeWriter
from volumes import forked, header, pixels, read_all, write_volume

KEY = "0" * 16


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_round_trip(tmp_path, compression, dtype):
    volume = pixels(dtype=dtype)
    entry = write_volume(tmp_path, volume, compression=compression)
    with VolumeFile(tmp_path / f"{KEY}.h5", KEY, entry.digest) as file:
        np.testing.assert_array_equal(file.read(), volume)
        np.testing.assert_array_equal(file.read(1, 3), volume[1:3])
        assert file.read(2, 2).shape == (0, 12, 9)
        np.testing.assert_array_equal(file.z, np.arange(5) * 2.5)
        assert file.header == header(volume.shape, dtype=dtype)
        file.verify()
        with pytest.raises(IndexError):
            file.read(0, 6)


def test_compression_changes_no_digest(tmp_path):
    digests = {write_volume(tmp_path, pixels(), compression=c).digest for c in (None, *COMPRESSIONS)}
    assert len(digests) == 1


@pytest.mark.usefixtures("way")
def test_fewer_slices_than_announced(tmp_path):
    volume = pixels(3)
    with VolumeWriter(tmp_path, KEY, 5, 12, 9, "int16", None) as writer:
        for image in volume:
            writer.append(image)
        writer.finish(header(volume.shape), np.arange(3.0))
    with VolumeFile(tmp_path / f"{KEY}.h5", KEY) as file:
        np.testing.assert_array_equal(file.read(), volume)


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("at", [0, 100, -1])
def test_what_the_disk_made_otherwise_never_becomes_a_volume(tmp_path, monkeypatch, number, at):
    """A byte of a slice, or of its checksum, that is not what was written."""
    written, write = [], writer_module.Disk.write

    def changed(disk, data):
        data = bytearray(data)
        if len(data) == pixels()[0].nbytes + 4:
            data[at] ^= 255 if len(written) == number else 0
            written.append(data)
        return write(disk, data)

    monkeypatch.setattr(writer_module.Disk, "write", changed)
    with pytest.raises(InputError, match="checksum|not what was written|filter returned failure"):
        write_volume(tmp_path, pixels())
    assert len(written) == 5
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_does_not_finish_leaves_nothing(tmp_path):
    with VolumeWriter(tmp_path, KEY, 5, 12, 9, "int16", None) as writer:
        writer.append(pixels()[0])
        with pytest.raises(LimGpuError, match="float64"):
            writer.append(np.zeros((12, 9)))
        with pytest.raises(LimGpuError, match="slices"):
            writer.finish(header((5, 12, 9)), np.arange(5.0))
    assert list(tmp_path.iterdir()) == []


def test_more_slices_than_announced_and_positions_that_are_none(tmp_path):
    with VolumeWriter(tmp_path, KEY, 1, 12, 9, "int16", None) as writer:
        writer.append(pixels()[0])
        with pytest.raises(LimGpuError, match="more than the 1 slices"):
            writer.append(pixels()[1])
        with pytest.raises(InputError, match="not finite"):
            writer.finish(header((1, 12, 9)), np.array([np.nan]))
    assert list(tmp_path.iterdir()) == []


def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


KILL_POINTS = {
    "no slice yet": (VolumeWriter, "append"),
    "some slices": (writer_module, "slice_digest"),
    "header and digests": (VolumeWriter, "_add"),
    "written back": (VolumeFile, "verify"),
    "synced": (writer_module, "sync"),
    "renamed": (os, "replace"),
}


@pytest.mark.parametrize("point", KILL_POINTS)
@pytest.mark.parametrize("standing", [False, True])
def test_kill_at_every_step_leaves_the_old_file_or_none(tmp_path, monkeypatch, point, standing):
    path = tmp_path / f"{KEY}.h5"
    if standing:
        write_volume(tmp_path, pixels(seed=1))
    monkeypatch.setattr(*KILL_POINTS[point], die)
    assert forked(lambda: write_volume(tmp_path, pixels(seed=2))) == -signal.SIGKILL
    monkeypatch.undo()
    assert path.exists() == standing
    if standing:
        np.testing.assert_array_equal(read_all(path)[0], pixels(seed=1))
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [path] * standing


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / f"{KEY}.h5"
    versions = [pixels(20, 40, 40, seed) for seed in range(2)]

    def write_for_ever():
        while True:
            for version in versions:
                write_volume(tmp_path, version)

    moments = random.Random(0)
    write_volume(tmp_path, versions[0])
    for _ in range(40):
        child = os.fork()
        if child == 0:
            write_for_ever()
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with VolumeFile(path, KEY) as file:
            file.verify()
            assert any(np.array_equal(file.read(), version) for version in versions)
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from volumes import pixels, write_volume
for limit in (0, 500, 3000, 60_000, 200_000, 600_000, 1_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for compression in (None, "deflate"):
        try:
            write_volume(Path(sys.argv[1]), pixels(200, 64, 64), compression=compression)
        except Exception as error:
            print(type(error).__name__, error, list(Path(sys.argv[1]).iterdir()), flush=True)
"""


def test_a_full_disk_leaves_nothing_says_so_and_crashes_nothing(tmp_path):
    """HDF5 2.0 crashes at the next call or at exit when it meets a full disk itself."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parents[1])], capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    text = f"LimGpuError {tmp_path}/{KEY}.h5: cannot be written (File too large). Free some disk space and run again []"
    assert lines == [text] * 14
    assert (result.returncode, result.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LimGpuError, match=r"cannot be written \(.*\). Check the folder"):
        write_volume(tmp_path / "file", pixels())
