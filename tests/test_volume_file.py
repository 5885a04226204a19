"""The volume format: round trip, and what a damaged, cut, foreign or hostile file does (nothing)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from volumes import header, pixels, write_volume

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import remove_stale
from lim_gpu.volume_file import COMPRESSIONS, VolumeFile, VolumeHeader, VolumeWriter, volume_digest

KEY = "0" * 16


@pytest.fixture
def written(tmp_path):
    write_volume(tmp_path, pixels())
    return tmp_path / f"{KEY}.h5"


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


def test_fewer_slices_than_announced(tmp_path):
    volume = pixels(3)
    with VolumeWriter(tmp_path, KEY, 5, 12, 9, "int16", None) as writer:
        for image in volume:
            writer.append(image)
        writer.finish(header(volume.shape), np.arange(3.0))
    with VolumeFile(tmp_path / f"{KEY}.h5", KEY) as file:
        np.testing.assert_array_equal(file.read(), volume)


def test_a_writer_that_does_not_finish_leaves_nothing(tmp_path):
    with VolumeWriter(tmp_path, KEY, 5, 12, 9, "int16", None) as writer:
        writer.append(pixels()[0])
        with pytest.raises(LimGpuError, match="float64"):
            writer.append(np.zeros((12, 9)))
        with pytest.raises(LimGpuError, match="slices"):
            writer.finish(header((5, 12, 9)), np.arange(5.0))
    assert list(tmp_path.iterdir()) == []


def test_header_fields_are_checked(tmp_path):
    import json

    good = json.loads(header((1, 2, 3)).to_json())
    assert VolumeHeader.from_json(json.dumps(good).encode(), tmp_path) == header((1, 2, 3))
    for change in (
        {"key": "../../../../evil"},
        {"key": KEY + "\n"},
        {"shape": [1, 2]},
        {"shape": [1, 2, -3]},
        {"dtype": "object"},
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


def read_all(path):
    with VolumeFile(path, KEY) as file:
        return file.read(), file.z, file.header


def test_random_damage_gives_an_error_or_the_right_pixels(written):
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    right = pixels()
    refused = 0
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
            refused += str(written) in str(error) and "\n" not in str(error)
            continue
        np.testing.assert_array_equal(volume, right)
        np.testing.assert_array_equal(z, np.arange(5) * 2.5)
        assert head == header(right.shape)
    assert refused > 300


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


def replace_slices(path, make):
    with h5py.File(path, "r+") as file:
        del file["slices"]
        make(file)


def external_link(file):
    file["slices"] = h5py.ExternalLink("/etc/passwd", "/")


def external_link_to_hdf5(file):
    victim = Path(file.filename).with_name("victim.h5")
    with h5py.File(victim, "w") as other:
        other["slices"] = pixels()
    file["slices"] = h5py.ExternalLink(str(victim), "slices")


def soft_link(file):
    file["slices"] = h5py.SoftLink("/z")


def loop(file):
    file["slices"] = h5py.SoftLink("/slices")


def external_storage(file):
    canary = Path(file.filename).with_name("canary")
    canary.write_bytes(b"secret" * 1000)
    file.create_dataset("slices", (5, 12, 9), "<i2", external=[(str(canary), 0, 1080)])


def virtual_dataset(file):
    victim = Path(file.filename).with_name("victim.h5")
    with h5py.File(victim, "w") as other:
        other["data"] = pixels()
    layout = h5py.VirtualLayout((5, 12, 9), "<i2")
    layout[:] = h5py.VirtualSource(str(victim), "data", (5, 12, 9))
    file.create_virtual_dataset("slices", layout)


def virtual_dataset_without_source(file):
    layout = h5py.VirtualLayout((5, 12, 9), "<i2")
    layout[:] = h5py.VirtualSource("gone.h5", "data", (5, 12, 9))
    file.create_virtual_dataset("slices", layout)


def shape_bomb(file):
    file.create_dataset("slices", (10**6, 32768, 32768), "<i2", chunks=(1, 32768, 32768), fletcher32=True)


def chunk_bomb(file):
    file.create_dataset("slices", (5, 12, 9), "<i2", chunks=(5, 12, 9), fletcher32=True)


def gzip_twice(file):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, 12, 9))
    plist.set_deflate(9)
    plist.set_deflate(9)
    plist.set_fletcher32()
    h5py.h5d.create(file.id, b"slices", h5py.h5t.STD_I16LE, h5py.h5s.create_simple((5, 12, 9)), plist)


def foreign_filter(file):
    file.create_dataset("slices", data=pixels(), chunks=(1, 12, 9), compression="lzf", fletcher32=True)


def no_checksum(file):
    file.create_dataset("slices", data=pixels(), chunks=(1, 12, 9))


def variable_length(file):
    file.create_dataset("slices", (5, 12, 9), h5py.string_dtype(), chunks=(1, 12, 9), fletcher32=False)


def object_reference(file):
    file.create_dataset("slices", (5, 12, 9), h5py.ref_dtype, chunks=(1, 12, 9))


def wrong_rank(file):
    file.create_dataset("slices", data=pixels()[0], chunks=(12, 9), fletcher32=True)


def a_group(file):
    file.create_group("slices")


def missing_chunks(file):
    file.create_dataset("slices", (5, 12, 9), "<i2", chunks=(1, 12, 9), fletcher32=True)[0] = 1


HOSTILE = (
    external_link, external_link_to_hdf5, soft_link, loop, external_storage, virtual_dataset,
    virtual_dataset_without_source, shape_bomb, chunk_bomb, gzip_twice, foreign_filter, no_checksum, variable_length,
    object_reference, wrong_rank, a_group, missing_chunks,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_files_are_refused(written, make):
    replace_slices(written, make)
    others = {path: path.read_bytes() for path in written.parent.iterdir() if path != written}
    with pytest.raises(InputError, match=str(written)) as caught:
        read_all(written)
    assert "\n" not in str(caught.value)
    assert others == {path: path.read_bytes() for path in written.parent.iterdir() if path != written}


def test_an_extra_object_or_attribute_is_refused(written):
    with h5py.File(written, "r+") as file:
        file["more"] = 1
    with pytest.raises(InputError, match="not a volume"):
        read_all(written)
    with h5py.File(written, "r+") as file:
        del file["more"]
        file.attrs["note"] = "a string of variable length"
    with pytest.raises(InputError, match="not a volume"):
        read_all(written)


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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_only_regular_files_are_opened(tmp_path, make):
    path = tmp_path / f"{KEY}.h5"
    make(path)
    with pytest.raises(InputError, match="not a regular file"):
        VolumeFile(path, KEY)
    with pytest.raises(InputError, match="No such file"):
        VolumeFile(tmp_path / "none.h5", KEY)


WRITER = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from volumes import pixels, write_volume
while True:
    write_volume(Path(sys.argv[1]), pixels(40, 64, 64))
"""


def test_kill_leaves_no_file_or_a_whole_one(tmp_path):
    seen = 0
    for attempt in range(8):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)])
        time.sleep(0.45 + 0.017 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (tmp_path / f"{KEY}.h5").exists():
            seen += 1
            with VolumeFile(tmp_path / f"{KEY}.h5", KEY) as file:
                file.verify()
            (tmp_path / f"{KEY}.h5").unlink()
    assert seen
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from volumes import pixels, write_volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_volume(Path(sys.argv[1]), pixels(200, 64, 64))
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parent)], capture_output=True, text=True
    )
    assert result.stdout.startswith("LimGpuError")
    assert "disk space" in result.stdout
    assert result.stdout.count("\n") == 1
    assert not list(tmp_path.glob("*.h5"))
