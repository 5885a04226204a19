"""The store: index, order, privacy, threads, selected copies."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import JSON_LIMIT
from lim_gpu.progress import Reporter
from lim_gpu.reduction.copy import write_selected
from lim_gpu.store import slices as store_module
from lim_gpu.store.private import private_folder, private_key, read_sources, write_sources
from lim_gpu.store.slices import SliceStore, read_index, standing_volume, write_index
from volumes import forked, pixels, write_store

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
    (folder / "sources" / f"{'0' * 16}.jsonl").write_text('["no row"]\n')
    with pytest.raises(InputError, match="damaged"):
        read_sources(path, "0" * 16)
    (folder / "sources" / f"{'0' * 16}.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="damaged"):
        read_sources(path, "0" * 16)
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


def test_reading_makes_no_private_folder(path):
    with pytest.raises(InputError, match="private"):
        read_sources(path, "0" * 16)
    assert not path.with_name("slices.private").exists()


def test_a_private_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "slices.private").touch()
    with pytest.raises(LimGpuError, match=r"slices\.private: cannot be made"):
        private_key(tmp_path / "slices")


def test_a_selection_is_never_written_over_its_store(path, tmp_path):
    (tmp_path / "alias").symlink_to(path)
    with SliceStore(path) as store:
        for target in (path, tmp_path / "alias", path / ".." / "slices"):
            with pytest.raises(UsageError, match="is the store that is read"):
                write_selected(store, selected(store, [0], [1], [0]), target, overwrite=True)
        np.testing.assert_array_equal(store[0].read(), VOLUMES[0])


def test_a_volume_that_cannot_be_copied_is_named_and_the_others_go_on(path, tmp_path, capsys):
    os.truncate(path / "volumes" / f"{1:016x}.h5", 1000)
    target = tmp_path / "reduced"
    with SliceStore(path) as store:
        failures = write_selected(store, selected(store, [0, 3], [1], [1]), target, reporter=Reporter())
        assert len(failures) == 1
        assert f"{1:016x}.h5" in failures[0]
        assert failures[0] in capsys.readouterr().err
        with SliceStore(target) as reduced:
            assert [volume.key for volume in reduced] == [f"{0:016x}", f"{2:016x}"]
        for key in (0, 2):
            (path / "volumes" / f"{key:016x}.h5").unlink()
        with pytest.raises(InputError, match="no volume can be read"):
            write_selected(store, selected(store, [0, 3], [1], [1]), tmp_path / "none")


def test_a_selected_volume_keeps_true_geometry(path, tmp_path):
    with SliceStore(path) as store:
        write_selected(store, selected(store, [0, 2, 4], [1], [0, 1]), tmp_path / "reduced")
        with SliceStore(tmp_path / "reduced") as reduced:
            first = reduced[0].header
    assert first.spacing == (5.0, 1.0, 1.0)
    assert first.affine[2][2] == 2.0  # the test volumes' affine moves 1 mm a slice of 2.5 mm
    assert "gaps" not in first.defects


def test_a_pickle_carries_percentiles_that_were_found(path, monkeypatch):
    with SliceStore(path) as store:
        found = store[0].percentiles(1, 99)
        copy = pickle.loads(pickle.dumps(store))
    monkeypatch.setattr(copy[0], "read_slice", None)
    assert copy[0].percentiles(1, 99) == found
