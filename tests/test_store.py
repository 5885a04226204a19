"""The store: index, order, privacy, threads, selected copies."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from volumes import pixels, write_store

from lim_gpu.errors import InputError, UsageError
from lim_gpu.store import (
    SliceStore,
    private_folder,
    private_key,
    read_sources,
    standing_volume,
    write_selected,
    write_sources,
)

VOLUMES = [pixels(5), pixels(3, 7, 8, seed=1), pixels(2, dtype="uint8", seed=2)]


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "slices", VOLUMES)


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
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            right = np.array_equal(store[0].read(), VOLUMES[0])
            os.write(write, b"1" if right else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1) == b"1"
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
        lambda v: v["volumes"][0].update(dtype="object"),
        lambda v: v["volumes"][0].update(extra=1),
        lambda v: v["volumes"][0].pop("patient"),
        lambda v: v["volumes"].append(v["volumes"][0]),
    ],
)
def test_a_hostile_index_is_refused(path, change):
    mutate(path, change)
    with pytest.raises(InputError, match="store.json"):
        SliceStore(path)


def test_a_file_that_the_index_does_not_mean_is_refused(path):
    mutate(path, lambda v: v["volumes"][0].update(digest="0" * 64))
    with SliceStore(path) as store:
        with pytest.raises(InputError, match="digest"):
            store[0].read()
        np.testing.assert_array_equal(store[1].read(), VOLUMES[1])


def test_private_things_lie_beside_and_are_private(path):
    key = private_key(path)
    assert len(key) == 32
    assert private_key(path) == key
    rows = [{"path": "/data/Müller/1.dcm", "sop_uid": "1.2.3", "frame": 0}]
    write_sources(path, "0" * 16, rows)
    assert read_sources(path, "0" * 16) == rows
    folder = private_folder(path)
    assert folder.parent == path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in (folder / "key", folder / "sources" / f"{'0' * 16}.jsonl"):
        assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="private"):
        read_sources(path, "1" * 16)
    (folder / "key").write_text("short")
    with pytest.raises(InputError, match="damaged"):
        private_key(path)


def test_standing_volumes_are_known_by_their_origin(path):
    assert standing_volume(path, "0" * 16, "x") == SliceStore(path).volumes[0]
    assert standing_volume(path, "0" * 16, "y") is None
    assert standing_volume(path, "9" * 16, "x") is None


def selected(store, *kept):
    masks = (np.isin(np.arange(e.shape[0]), k) for e, k in zip(store.volumes, kept, strict=True))
    return [SimpleNamespace(key=e.key, kept=mask) for e, mask in zip(store.volumes, masks, strict=True)]


def test_selected_slices_become_a_store(path, tmp_path):
    target = tmp_path / "reduced"
    with SliceStore(path) as store:
        before = {file: file.read_bytes() for file in path.rglob("*.h5")}
        write_selected(store, selected(store, [0, 3], [1], [0, 1]), target)
        with SliceStore(target) as reduced:
            for volume, whole, kept in zip(reduced, VOLUMES, ([0, 3], [1], [0, 1]), strict=True):
                np.testing.assert_array_equal(volume.read(), whole[kept])
                np.testing.assert_array_equal(volume.z, np.array(kept) * 2.5)
                assert volume.header.selected_from == store[volume.key].entry.digest
                volume.verify()
        assert before == {file: file.read_bytes() for file in path.rglob("*.h5")}
        stamp = (target / "store.json").stat().st_mtime_ns
        write_selected(store, selected(store, [0, 3], [1], [0, 1]), target)
        assert (target / "store.json").stat().st_mtime_ns == stamp
        with pytest.raises(UsageError, match="--overwrite"):
            write_selected(store, selected(store, [0], [1], []), target)
        write_selected(store, selected(store, [0], [1], []), target, overwrite=True)
    assert [entry.shape[0] for entry in SliceStore(target).volumes] == [1, 1]
    assert len(list((target / "volumes").glob("*.h5"))) == 2
