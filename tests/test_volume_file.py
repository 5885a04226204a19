"""The volume format: round trip, and what a damaged, cut, foreign or hostile file does (nothing)."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from volumes import header, pixels, write_volume

from lim_gpu import volume_file
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


def test_more_slices_than_announced_and_positions_that_are_none(tmp_path):
    with VolumeWriter(tmp_path, KEY, 1, 12, 9, "int16", None) as writer:
        writer.append(pixels()[0])
        with pytest.raises(LimGpuError, match="more than the 1 slices"):
            writer.append(pixels()[1])
        with pytest.raises(InputError, match="not finite"):
            writer.finish(header((1, 12, 9)), np.array([np.nan]))
    assert list(tmp_path.iterdir()) == []


def test_header_fields_are_checked(tmp_path):
    good = json.loads(header((1, 2, 3)).to_json())
    assert VolumeHeader.from_json(json.dumps(good).encode(), tmp_path) == header((1, 2, 3))
    for change in (
        {"key": "../../../../evil"},
        {"key": KEY + "\n"},
        {"shape": [1, 2]},
        {"shape": [1, 2, -3]},
        {"dtype": "object"},
        {"dtype": ["int16"]},
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


def two_bits(file):
    """HDF5 then reads two bits of every pixel; its dtype is int16 all the same."""
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(2)
    file.create_dataset("slices", (5, 12, 9), h5py.Datatype(kind), chunks=(1, 12, 9), fletcher32=True)[...] = 1


def no_chunk(file):
    file.create_dataset("slices", (5, 12, 9), "<i2", chunks=(1, 12, 9), fletcher32=True)


def endless(file):
    file.create_dataset(
        "slices", data=pixels(), dtype="<i2", chunks=(1, 12, 9), maxshape=(None, 12, 9), fletcher32=True
    )


def growing_slices(file):
    """HDF5 2.0 crashes on such a file when the larger size is made up."""
    file.create_dataset("slices", data=pixels(), dtype="<i2", chunks=(1, 12, 9), maxshape=(5, 12, 99), fletcher32=True)


def unchecked_chunk(file):
    slices = file.create_dataset("slices", data=pixels(), chunks=(1, 12, 9), fletcher32=True)
    slices.id.write_direct_chunk((2, 0, 0), bytes(216 + 4), filter_mask=1)


def with_checksum(file, payload):
    """The payload and its fletcher32, as HDF5 stores them."""
    name = f"scratch{len(file)}"
    scratch = file.create_dataset(name, data=np.frombuffer(payload, "u1"), chunks=(len(payload),), fletcher32=True)
    file.flush()
    stored = scratch.id.read_direct_chunk((0,))[1]
    del file[name]
    return stored


def stored_as(payload, compression="gzip"):
    """A maker of compressed slices, the third of which is `payload` with a right checksum."""

    def make(file):
        import hdf5plugin

        codec = {"gzip": {"compression": "gzip"}, "zstd": {**hdf5plugin.Zstd()}, "lz4": {**hdf5plugin.LZ4()}}
        slices = file.create_dataset("slices", data=pixels(), chunks=(1, 12, 9), fletcher32=True, **codec[compression])
        slices.id.write_direct_chunk((2, 0, 0), with_checksum(file, payload))

    return make


short_deflate = stored_as(zlib.compress(bytes(10)))  # HDF5 2.0 takes the rest of the slice from foreign memory
long_deflate = stored_as(zlib.compress(bytes(100_000)))
deflate_bomb = stored_as(zlib.compress(bytes(60_000_000)))
broken_deflate = stored_as(b"no deflate at all")
short_zstd = stored_as(b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00xy", "zstd")  # one raw block of 2 bytes
no_zstd = stored_as(b"no frame at all", "zstd")
short_lz4 = stored_as((2).to_bytes(8, "big") + (2).to_bytes(4, "big") * 2 + b"xy", "lz4")
CRAFTED = (
    "short_deflate", "long_deflate", "deflate_bomb", "broken_deflate", "short_zstd", "no_zstd", "short_lz4",
)  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_slices_that_decode_to_another_size_are_refused(written, name):
    with h5py.File(written, "r+", libver=("v110", "v110")) as file:
        del file["slices"]
        globals()[name](file)
    status = forked(lambda: refuses(written), memory=50 << 20)
    assert status == 0


def forked(function, memory=None):
    """Exit code of a forked child that calls `function`: 0, or 1 for an exception; `memory` is what it may add."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if memory is not None:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refuses(path):
    with pytest.raises(InputError, match=str(path)) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert "Memory" not in str(caught.value)


def test_a_shuffle_of_another_size_is_refused(tmp_path):
    """The same bytes, put back together in another order, would be other pixels with a right checksum."""
    write_volume(tmp_path, pixels(), compression="deflate")
    path = tmp_path / f"{KEY}.h5"
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        options = file["slices"].id.get_create_plist().get_filter(0)
    assert options[2] == (2,)
    shuffle = data.index(b"\x02\x00\x01\x00\x01\x00\x02\x00\x00\x00", 48)  # id 2, 1 value, the value 2
    start = data.rindex(b"OHDR", 0, shuffle)
    end = next(e for e in range(start + 8, start + 9000) if lookup3(data[start:e]) == data[e : e + 4])
    data[shuffle + 6] = 1
    data[end : end + 4] = lookup3(data[start:end])
    path.write_bytes(data)
    with pytest.raises(InputError, match="shuffled"):
        read_all(path)


def lookup3(data):
    """The checksum of HDF5 metadata: Bob Jenkins' hashlittle with seed 0 (public domain), as four bytes."""

    def rotate(x, k):
        return (x << k | x >> (32 - k)) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    blocks = [data[i : i + 12] for i in range(0, len(data), 12)]
    for number, block in enumerate(blocks):
        words = np.frombuffer(bytes(block).ljust(12, b"\0"), "<u4").tolist()
        a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), words, strict=True))
        if number < len(blocks) - 1:
            for turn in (4, 6, 8, 16, 19, 4):
                a = ((a - c) & 0xFFFFFFFF) ^ rotate(c, turn)
                c = (c + b) & 0xFFFFFFFF
                a, b, c = b, c, a
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rotate(b, turn)) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b.to_bytes(4, "little")


HOSTILE = (
    external_link, external_link_to_hdf5, soft_link, loop, external_storage, virtual_dataset,
    virtual_dataset_without_source, shape_bomb, chunk_bomb, gzip_twice, foreign_filter, no_checksum, variable_length,
    object_reference, wrong_rank, a_group, missing_chunks, no_chunk, two_bits, endless, growing_slices, unchecked_chunk,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_files_are_refused(written, make):
    replace_slices(written, make)
    others = {path: path.read_bytes() for path in written.parent.iterdir() if path != written}
    with pytest.raises(InputError, match=str(written)) as caught:
        read_all(written)
    assert "\n" not in str(caught.value)
    assert others == {path: path.read_bytes() for path in written.parent.iterdir() if path != written}


@pytest.mark.parametrize("make", [shape_bomb, chunk_bomb, gzip_twice], ids=lambda make: make.__name__)
def test_bombs_are_refused_within_little_memory(written, make):
    replace_slices(written, make)
    assert forked(lambda: refuses(written), memory=100 << 20) == 0


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


def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


KILL_POINTS = {
    "no slice yet": (VolumeWriter, "append"),
    "some slices": (volume_file, "slice_digest"),
    "header and digests": (VolumeWriter, "_add"),
    "written back": (VolumeFile, "verify"),
    "synced": (volume_file, "sync"),
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
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parent)], capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    text = f"LimGpuError {tmp_path}/{KEY}.h5: cannot be written (File too large). Free some disk space and run again []"
    assert lines == [text] * 14
    assert (result.returncode, result.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LimGpuError, match=r"cannot be written \(.*\). Check the folder"):
        write_volume(tmp_path / "file", pixels())


@pytest.mark.parametrize("number", volume_file.NO_LOCKS)
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
