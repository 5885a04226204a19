"""What may be written where, asked before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.outputs import check_file, check_folder, standing_record


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """A folder that takes nothing, as os.access tells of it; whoever runs this may be allowed everything."""
    folder = tmp_path / "closed"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and os.fspath(path) == str(folder)))
    return folder


def test_a_place_below_what_takes_nothing(closed):
    for check in (check_file, check_folder):
        with pytest.raises(LimGpuError, match="closed takes no new files.* choose another place") as caught:
            check(closed / "new" / "x.1")
        assert caught.value.exit_code == 3
    assert not list(closed.iterdir())


def test_a_place_below_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    for check in (check_file, check_folder):
        with pytest.raises(LimGpuError, match="new/x: cannot be written: .*file is no folder"):
            check(tmp_path / "file" / "new" / "x")


def test_what_is_there_already(closed, tmp_path):
    (closed / "standing.csv").write_text("mine")
    check_file(closed / "standing.csv")  # it may stay
    with pytest.raises(LimGpuError, match="takes no new files"):
        check_file(closed / "standing.csv", replaced=True)
    with pytest.raises(UsageError, match="is a folder. Give the name of a file"):
        check_file(closed)
    with pytest.raises(UsageError, match="is a file. Give a folder"):
        check_folder(closed / "standing.csv")
    check_folder(closed)  # its lock tells


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for check in (check_file, check_folder):
        check(Path("a/b/c"))


@pytest.mark.parametrize("name", ["kept.txt", "kept.CSV", "run.ckpt", "labels.json"])
def test_a_folder_does_not_get_the_name_of_a_file(tmp_path, name):
    with pytest.raises(UsageError, match=f"a folder is made. Give .*/{name.split('.')[0]}, with a list"):
        check_folder(tmp_path / name, holds=", with a list")
    (tmp_path / name).mkdir()
    check_folder(tmp_path / name)  # who made it wants it
    check_folder(tmp_path / "swav-0.1")
    check_folder(tmp_path / "run.v2")


def test_outputs_that_will_be_replaced_can_be(closed):
    paths = [closed / "a.csv", closed / "a.json"]
    with pytest.raises(LimGpuError, match="takes no new files"):
        standing_record(paths[1], "asked", paths, overwrite=False)
    paths[1].write_text('{"fingerprint": "asked"}')
    paths[0].write_text("1")
    assert standing_record(paths[1], "asked", paths, overwrite=False) == {"fingerprint": "asked"}
    with pytest.raises(UsageError, match="made otherwise"):
        standing_record(paths[1], "other", paths, overwrite=False)
    with pytest.raises(LimGpuError, match="takes no new files"):
        standing_record(paths[1], "other", paths, overwrite=True)
