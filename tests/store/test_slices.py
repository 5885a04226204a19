"""The store: index, order, privacy, threads, selected copies."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import JSON_LIMIT, LARGE_JSON
from lim_gpu.store import slices as store_module
from lim_gpu.store.file import MAX_SIDE, MAX_SLICES
from lim_gpu.store.slices import MOST_VOLUMES, SliceStore, check_count, read_index, standing_volume, write_index
from lim_gpu.store.volume import VolumeEntry
from volumes import VOLUMES, forked, pixels, write_store

ENTRY = ("f" * 16, "", (260, 512, 512), "int16", "CT", "d" * 64)  # all but the key
LARGEST = ("f" * 16, "", (MAX_SLICES, MAX_SIDE, MAX_SIDE), "int16", "OTHER", "d" * 64)


def test_volumes_come_in_the_order_of_the_index(path):
    with SliceStore(path) as store:
        assert len(store) == 3
        for i, (volume, expected) in enumerate(zip(store, VOLUMES, strict=True)):
            np.testing.assert_array_equal(volume.read(), expected)
            assert store[i] is volume
            assert store[volume.key] is volume
            np.testing.assert_array_equal(volume.read_slice(1), expected[1])
            assert volume.entry.shape == expected.shape


def test_the_fingerprint_follows_every_pixel_and_the_order(path, tmp_path):
    first = SliceStore(path).fingerprint
    assert SliceStore(write_store(tmp_path / "same", VOLUMES)).fingerprint == first
    changed = [VOLUMES[0].copy(), *VOLUMES[1:]]
    changed[0][2, 3, 4] += 1
    assert SliceStore(write_store(tmp_path / "pixel", changed)).fingerprint != first
    assert SliceStore(write_store(tmp_path / "order", VOLUMES[::-1])).fingerprint != first


def test_threads_and_pickles_read_the_same(path):
    with SliceStore(path) as store, ThreadPoolExecutor(4) as pool:
        for volume, expected in zip(store, VOLUMES, strict=True):
            copies = list(pool.map(volume.read_slice, list(range(len(expected))) * 5))
            np.testing.assert_array_equal(copies, np.concatenate([expected] * 5))
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read(), expected)


def test_a_forked_child_opens_its_own_file(path):
    with SliceStore(path) as store:
        store[0].read()
        assert forked(lambda: np.testing.assert_array_equal(store[0].read(), VOLUMES[0])) == 0
        np.testing.assert_array_equal(store[0].read(), VOLUMES[0])


def test_what_is_no_store_is_named(tmp_path, path):
    with pytest.raises(InputError, match="no such folder"):
        SliceStore(tmp_path / "none")
    with pytest.raises(InputError, match="no store.json"):
        SliceStore(tmp_path)


def mutate(path, change):
    values = json.loads((path / "store.json").read_text())
    change(values)
    (path / "store.json").write_text(json.dumps(values))


def test_a_selection_given_as_a_store_is_no_folder_to_make(tmp_path):
    (tmp_path / "hash.csv").write_text("volume,slice\n")
    with pytest.raises(
        InputError, match=r"hash\.csv: is a file, no store\. Give the folder that lim-gpu ingest wrote$"
    ):
        SliceStore(tmp_path / "hash.csv")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="other"),
        lambda v: v.update(version=2),
        lambda v: v.update(volumes={}),
        lambda v: v.pop("parameters"),
        lambda v: v["volumes"][0].update(key="../../../etc/passwd"),
        lambda v: v["volumes"][0].update(key="0" * 15 + "\n"),
        lambda v: v["volumes"][0].update(shape=[5, 12]),
        lambda v: v["volumes"][0].update(shape=[5, 12, 0]),
        lambda v: v["volumes"][0].update(shape=[10**12, 12, 9]),
        lambda v: v["volumes"][0].update(shape=[5, 12, 9.0]),
        lambda v: v["volumes"][0].update(digest=None),
        lambda v: v["volumes"].append("../evil"),
        lambda v: v.update(skipped={"not an image": "many"}),
        lambda v: v["volumes"][0].update(dtype="object"),
        lambda v: v["volumes"][0].update(extra=1),
        lambda v: v["volumes"][0].pop("patient"),
        lambda v: v["volumes"].append(v["volumes"][0]),
    ],
)
def test_a_hostile_index_is_refused(path, change):
    mutate(path, change)
    with pytest.raises(InputError, match="store.json") as caught:
        SliceStore(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"skipped": {}', '"skipped": {"a": NaN}'),
        ('"skipped": {}', '"skipped": {"a": 1e999}'),
        ('"skipped": {}', '"skipped": {}, "skipped": {}'),
        ('"skipped": {}', '"skipped": ' + 100_000 * "["),
        ('"skipped": {}', '"skipped": {"a": ' + 5000 * "9" + "}"),
        ("{", ""),
        ('"origin"', '"\udcff"'),
    ],
)
def test_json_that_is_none_is_refused(path, old, new):
    text = (path / "store.json").read_text().replace(old, new, 1)
    (path / "store.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="store.json"):
        SliceStore(path)


def test_random_damage_to_the_index_is_found_or_harmless(path):
    whole = (path / "store.json").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole)))
        damaged[at : at + int(rng.integers(1, 4))] = rng.integers(0, 256, int(rng.integers(0, 4)), np.uint8).tobytes()
        (path / "store.json").write_bytes(damaged)
        try:
            with SliceStore(path) as store:
                for volume in store:
                    expected = VOLUMES[int(volume.key, 16)]
                    np.testing.assert_array_equal(volume.read(), expected)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_index_that_is_no_file_is_not_opened(tmp_path, make):
    make(tmp_path / "store.json")
    with pytest.raises(InputError, match="no store.json"):
        SliceStore(tmp_path)


@pytest.mark.parametrize("damage", [lambda p: os.truncate(p, 1000), lambda p: p.write_bytes(b"text"), os.remove])
def test_a_damaged_volume_leaves_the_others(path, damage):
    damage(path / "volumes" / f"{1:016x}.h5")
    with SliceStore(path) as store:
        np.testing.assert_array_equal(store[0].read(), VOLUMES[0])
        with pytest.raises(InputError, match=f"{1:016x}.h5: .*Run lim-gpu ingest again"):
            store[1].read()
        np.testing.assert_array_equal(store[2].read(), VOLUMES[2])


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/passwd", path)])
def test_a_volume_that_is_no_file_is_not_opened(path, make):
    volume = path / "volumes" / f"{1:016x}.h5"
    volume.unlink()
    make(volume)
    with SliceStore(path) as store, pytest.raises(InputError, match="not a regular file"):
        store[1].read()


def test_indexing(path):
    with SliceStore(path) as store:
        assert store[np.int64(1)] is store[1]
        assert store[-1] is store[2]
        with pytest.raises(IndexError):
            store[3]
        with pytest.raises(KeyError):
            store["f" * 16]


def test_an_index_beyond_the_limit_of_other_files_is_read(path):
    """As of more than 262,000 volumes, made large by their names."""
    entries = [replace(read_index(path).volumes[0], key=f"{i:016x}", name=f"{i} {'n' * 70_000}") for i in range(1000)]
    write_index(path, entries, {}, {}, "")
    assert (path / "store.json").stat().st_size > JSON_LIMIT
    assert SliceStore(path).volumes == tuple(entries)


def test_an_index_takes_less_than_a_kilobyte_a_volume_to_open(tmp_path):
    """Told of 4,000: tracemalloc's peak, the text of the file included."""
    n = 4000
    write_index(tmp_path, [VolumeEntry(f"{i:016x}", *ENTRY) for i in range(n)], {}, {}, "")
    tracemalloc.start()
    try:
        store = SliceStore(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1000 * n
    finally:
        tracemalloc.stop()
    assert len(store) == n
    assert store[3].key == f"{3:016x}"


def test_an_index_holds_as_many_entries_as_are_told_before_they_are_made(tmp_path):
    """Of the largest volume, which takes the most digits."""
    write_index(tmp_path, [VolumeEntry(f"{i:016x}", *LARGEST) for i in range(100)], {}, {}, "")
    assert (tmp_path / "store.json").stat().st_size / 100 < LARGE_JSON / MOST_VOLUMES
    check_count(tmp_path, MOST_VOLUMES)
    with pytest.raises(LimGpuError, match="3,355,444 volumes, and an index holds 3,355,443. Ingest parts"):
        check_count(tmp_path, MOST_VOLUMES + 1)


def test_few_files_are_open_at_a_time_however_many_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MOST_OPEN", 3)
    volumes = [pixels(4, seed=seed) for seed in range(10)]
    path = write_store(tmp_path / "slices", volumes)
    with SliceStore(path) as store, ThreadPoolExecutor(4) as pool:
        open_before = len(os.listdir("/proc/self/fd"))
        for volume, expected in zip(store, volumes, strict=True):
            np.testing.assert_array_equal(volume.read(), expected)
        assert len(os.listdir("/proc/self/fd")) == open_before + 3
        places = [(i, j) for i in range(10) for j in range(4)] * 20
        np.random.default_rng(0).shuffle(places)
        for (i, j), image in zip(
            places, pool.map(lambda place: store[place[0]].read_slice(place[1]), places), strict=True
        ):
            np.testing.assert_array_equal(image, volumes[i][j])
        assert len(os.listdir("/proc/self/fd")) <= open_before + 3 + 4


def test_a_store_pickles_without_its_handles(path):
    with SliceStore(path) as store:
        store[0].read()
        copy = pickle.loads(pickle.dumps(store))
        assert copy.fingerprint == store.fingerprint
        np.testing.assert_array_equal(copy[0].read(), VOLUMES[0])
        assert copy[0] is not store[0]


def test_a_relative_store_is_found_after_a_change_of_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with SliceStore("slices") as store:
        monkeypatch.chdir(path)
        np.testing.assert_array_equal(store[0].read(), VOLUMES[0])


def test_a_file_that_the_index_does_not_mean_is_refused(path):
    mutate(path, lambda v: v["volumes"][0].update(digest="0" * 64))
    with SliceStore(path) as store:
        with pytest.raises(InputError, match="digest"):
            store[0].read()
        np.testing.assert_array_equal(store[1].read(), VOLUMES[1])


def test_standing_volumes_are_known_by_their_origin(path):
    assert standing_volume(path, "0" * 16, "x") == SliceStore(path).volumes[0]
    assert standing_volume(path, "0" * 16, "y") is None
    assert standing_volume(path, "9" * 16, "x") is None


def test_a_pickle_carries_percentiles_that_were_found(path, monkeypatch):
    with SliceStore(path) as store:
        found = store[0].percentiles(1, 99)
        copy = pickle.loads(pickle.dumps(store))
    monkeypatch.setattr(copy[0], "read_slice", None)
    assert copy[0].percentiles(1, 99) == found
