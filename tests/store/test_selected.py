"""Selected slices as a store of their own, and the private folder beside a store."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.progress import Reporter
from lim_gpu.reduction.copy import write_selected
from lim_gpu.store.private import private_folder, private_key, read_sources, write_sources
from lim_gpu.store.slices import SliceStore
from volumes import VOLUMES


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
