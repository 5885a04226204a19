"""Metadata forged with right checksums: refused, or the right pixels."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from lim_gpu.errors import InputError
from volumes import forked, pixels, read_all, refuses, write_volume

KEY = "0" * 16


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


def metadata_blocks(data):
    """(start, end) of the blocks of HDF5 metadata; their checksum stands at the end."""
    found = []
    for signature in (b"\x89HDF", b"OHDR", b"OCHK", b"FAHD", b"FADB"):
        start = data.find(signature)
        while start >= 0:
            ends = range(start + 8, min(start + 300, len(data) - 3))
            found += [(start, end) for end in ends if lookup3(data[start:end]) == data[end : end + 4]][:1]
            start = data.find(signature, start + 1)
    return found


def forge(data, blocks):
    """Make all checksums right again."""
    for start, end in blocks:
        data[end : end + 4] = lookup3(data[start:end])


def test_a_shuffle_of_another_size_is_refused(tmp_path):
    """The same bytes, put back together in another order, would be other pixels with a right checksum."""
    write_volume(tmp_path, pixels(), compression="deflate")
    path = tmp_path / f"{KEY}.h5"
    data = bytearray(path.read_bytes())
    blocks = metadata_blocks(data)
    shuffle = data.index(b"\x02\x00\x01\x00\x01\x00\x02\x00\x00\x00", 48)  # filter 2, optional, 1 value: 2
    data[shuffle + 6] = 1
    forge(data, blocks)
    path.write_bytes(data)
    refuses(path, "shuffled")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("source", "reason"), [(0, "overlap"), (None, "beyond the end")])
def test_chunks_that_lie_elsewhere_are_refused(written, source, reason):
    data = bytearray(written.read_bytes())
    blocks = metadata_blocks(data)
    start = data.index(b"FADB") + 14  # then, for each chunk, its address (8), its size (2) and filter mask (4)
    first = data[start : start + 8] if source == 0 else len(data).to_bytes(8, "little")
    data[start + 14 : start + 22] = first
    forge(data, blocks)
    written.write_bytes(data)
    refuses(written, reason)


@pytest.mark.usefixtures("way")
def test_forged_metadata_gives_an_error_or_the_right_pixels(written):
    """As random damage, but with right checksums: what a person could make. Crashes and hangs would end the child."""
    whole = written.read_bytes()
    blocks = metadata_blocks(whole)
    assert len(blocks) == 9
    assert forked(lambda: _read_forged(written, whole, blocks, 600)) == 0


def _read_forged(path, whole, blocks, cases):
    rng = np.random.default_rng(0)
    for _ in range(cases):
        signal.alarm(20)
        data = bytearray(whole)
        start, end = blocks[rng.integers(len(blocks))]
        at = int(rng.integers(start + 4, end))
        length = int(rng.choice([1, 1, 1, 2, 4, 8]))
        values = rng.choice([0, 1, 2, 127, 128, 255, rng.integers(256)], min(length, end - at)).astype(np.uint8)
        data[at : at + len(values)] = values.tobytes()
        forge(data, blocks)
        path.write_bytes(data)
        try:
            volume, z, _header = read_all(path)
        except InputError:
            continue
        np.testing.assert_array_equal(volume, pixels())
        np.testing.assert_array_equal(z, np.arange(5) * 2.5)
