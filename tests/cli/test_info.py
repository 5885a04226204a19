"""What `lim-gpu info` tells of stores and selections."""

from __future__ import annotations

import pytest

import lim_gpu
from lim_gpu.cli.info import describe
from lim_gpu.errors import InputError
from lim_gpu.progress import Reporter
from stores import make_store

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("info"))


def test_a_store_is_described_and_verified(store_path):
    description = describe(store_path, True, QUIET)
    assert description.values["slices"] == 35
    assert description.values["verified"] == 4
    assert "4 volumes" in description.lines[0]
    assert "2 patients" in description.lines[0]
    assert not description.skipped


def test_a_selection_is_described(store_path, tmp_path):
    with lim_gpu.SliceStore(store_path) as store:
        lim_gpu.reduce(store, "every-n", keep=0.5, output=tmp_path / "s.csv")
    description = describe(tmp_path / "s.csv", False, QUIET)
    assert description.values["method"] == "every-n"
    assert "every-n (scope volume, keep 0.5)" in description.lines[0]


def test_a_changed_volume_is_found(store_path):
    file = sorted((store_path / "volumes").glob("*.h5"))[0]
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1000] + bytes(1000))
        assert [name for name, _cause in describe(store_path, True, QUIET).values["failures"]] == [file.stem]
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_what_is_neither_is_refused(tmp_path, name):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match=name):
        describe(tmp_path / name, False, QUIET)
