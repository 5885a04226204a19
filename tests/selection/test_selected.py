"""The slices that a selection keeps: their places, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lim_gpu
from lim_gpu.errors import InputError
from lim_gpu.selection.selected import open_selected
from volumes import pixels, write_store

VOLUMES = (pixels(6, seed=3), pixels(4, seed=4))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "slices", VOLUMES)


@pytest.fixture(scope="module")
def selection(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("selection") / "half.csv"
    with lim_gpu.SliceStore(store) as opened:
        lim_gpu.reduce(opened, method="every-n", keep=0.5, output=path)
    return path


def test_every_slice_without_a_selection(store):
    with open_selected(store) as slices:
        assert slices.places.tolist() == [[0, i] for i in range(6)] + [[1, i] for i in range(4)]
        assert (len(slices), slices.source, slices.selection) == (10, store, None)
        assert slices.place(7) == (f"{1:016x}", 1)


def test_those_that_a_selection_keeps(store, selection):
    with open_selected(str(store), str(selection)) as slices:
        assert slices.places.tolist() == [[0, 0], [0, 2], [0, 4], [1, 0], [1, 2]]
        assert slices.source == selection
        assert [slices.place(i) for i in range(5)] == lim_gpu.Selection.load(selection).kept()


def test_an_open_store_is_taken_and_closed(store):
    opened = lim_gpu.SliceStore(store)
    with open_selected(opened) as slices:
        assert slices.store is opened
        assert opened[0].read_slice(0).shape == VOLUMES[0].shape[1:]
        assert opened[0]._held is not None
    assert opened[0]._held is None


def test_a_selection_of_another_store_is_refused_by_name(selection, tmp_path):
    other = write_store(tmp_path / "other", VOLUMES[::-1])
    with pytest.raises(InputError, match=r"half\.csv: was made from another store than .*other\. Run") as error:
        open_selected(other, selection)
    assert "\n" not in str(error.value)


def test_places_are_known_without_torch(store):
    program = f"import sys, lim_gpu.selection.selected as s; s.open_selected({str(store)!r}); "
    program += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
