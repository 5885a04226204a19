"""Files made to mislead or to hurt: each is refused in one line, for its own reason, and nothing else is touched."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.store.file import VolumeFile
from volumes import forked, pixels, read_all, refuses

KEY = "0" * 16


def replace_slices(path, make):
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
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


def twelve_bits(file):
    """HDF5 then reads twelve bits of every pixel; its dtype is int16 all the same."""
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
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


HOSTILE = {
    external_link: "link to somewhere else",
    external_link_to_hdf5: "link to somewhere else",
    soft_link: "link to somewhere else",
    loop: "link to somewhere else",
    external_storage: "outside the file",
    virtual_dataset: "outside the file",
    virtual_dataset_without_source: "outside the file",
    shape_bomb: "more than is read",
    chunk_bomb: "in chunks of",
    gzip_twice: "foreign filters",
    foreign_filter: "foreign filters",
    no_checksum: "checksum",
    variable_length: "object",
    object_reference: "object",
    wrong_rank: "(12, 9)",
    a_group: "no dataset",
    missing_chunks: "missing chunks",
    no_chunk: "no first chunk",
    twelve_bits: "foreign data type",
    endless: "may grow",
    growing_slices: "may grow",
    unchecked_chunk: "another size",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_files_are_refused(written, make):
    replace_slices(written, make)
    others = {path: path.read_bytes() for path in written.parent.iterdir() if path != written}
    refuses(written, HOSTILE[make])
    assert others == {path: path.read_bytes() for path in written.parent.iterdir() if path != written}


@pytest.mark.parametrize("make", [shape_bomb, chunk_bomb, gzip_twice], ids=lambda make: make.__name__)
def test_bombs_are_refused_within_little_memory(written, make):
    replace_slices(written, make)
    assert forked(lambda: refuses(written, HOSTILE[make]), memory=100 << 20) == 0


def with_checksum(file, payload):
    """The payload and its fletcher32, as HDF5 stores them."""
    scratch = file.create_dataset("scratch", data=np.frombuffer(payload, "u1"), chunks=(len(payload),), fletcher32=True)
    file.flush()
    stored = scratch.id.read_direct_chunk((0,))[1]
    del file["scratch"]
    return stored


def options(codec):
    import hdf5plugin

    return {"deflate": {"compression": "gzip"}, "zstd": {**hdf5plugin.Zstd()}, "lz4": {**hdf5plugin.LZ4()}}[codec]


STREAMS = {  # instead of the 216 bytes of a slice; HDF5 2.0 takes what is missing from foreign memory
    "short deflate": ("deflate", zlib.compress(bytes(10)), "decodes to another size"),
    "long deflate": ("deflate", zlib.compress(bytes(100_000)), "decodes to another size"),
    "deflate bomb": ("deflate", zlib.compress(bytes(60_000_000)), "chunks of another size"),
    "broken deflate": ("deflate", b"no deflate at all", "cannot be decoded"),
    "short zstd": ("zstd", b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00xy", "decodes to another size"),  # a raw block
    "broken zstd": ("zstd", b"no frame at all", "decodes to another size"),
    "short lz4": ("lz4", (2).to_bytes(8, "big") + 2 * (2).to_bytes(4, "big") + b"xy", "decodes to another size"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_slices_that_decode_to_another_size_are_refused(written, name):
    codec, payload, reason = STREAMS[name]

    def make(file):
        slices = file.create_dataset("slices", data=pixels(), chunks=(1, 12, 9), fletcher32=True, **options(codec))
        slices.id.write_direct_chunk((2, 0, 0), with_checksum(file, payload))

    replace_slices(written, make)
    assert forked(lambda: refuses(written, reason), memory=50 << 20) == 0


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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_only_regular_files_are_opened(tmp_path, make):
    path = tmp_path / f"{KEY}.h5"
    make(path)
    with pytest.raises(InputError, match="not a regular file"):
        VolumeFile(path, KEY)
    with pytest.raises(InputError, match="No such file"):
        VolumeFile(tmp_path / "none.h5", KEY)
