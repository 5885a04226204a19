"""Corrections by hand: as texts and files, what contradicts itself, and a CSV that was changed."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.errors import InputError, UsageError
from lim_gpu.selection import Selection, VolumeSelection
from lim_gpu.selection.edits import read_edits, spelled

A, B = "aa" * 8, "ab" * 8


def volume(key, kept):
    kept = np.array(kept, dtype=bool)
    n = len(kept)
    return VolumeSelection(key, np.arange(n) * 2.5, kept, np.full(n, -1), ((key, 0),) * n, np.full(n, np.nan, "f4"))


SELECTION = Selection((volume(A, [1, 0, 0, 0, 1]), volume(B, [1, 0])), {"store": {"path": "s", "fingerprint": "f"}})


def edits(add=(), drop=(), file=None):
    found = read_edits(SELECTION, add, drop, file)
    return found.add, found.drop


def test_slices_are_numbers_and_ranges_of_a_volume():
    assert edits([f"{A}:1,2-4"], ["ab:0"]) == ({(A, 1), (A, 2), (A, 3), (A, 4)}, {(B, 0)})


@pytest.mark.parametrize(
    "text", ["a:1", "zz:1", f"{A}:5", f"{A}:3-1", f"{A}:", f"{A}", "1", f"{A}:x", f"{A}:1,,2", ":1"]
)
def test_what_the_selection_does_not_have_is_refused(text):
    with pytest.raises(UsageError):
        edits([text])


def test_nothing_and_both_are_refused():
    with pytest.raises(UsageError, match="--add, --drop or --edits"):
        edits()
    with pytest.raises(UsageError, match="slice 2 of volume .* added and dropped"):
        edits([f"{A}:1-3"], [f"{A}:2"])


def test_a_file_has_a_line_a_change(tmp_path):
    path = tmp_path / "changes.txt"
    path.write_text(f"# mine\n\nadd {A}:1,3  # why\r\ndrop {B}:0\n")
    assert edits(["ab:1"], file=path) == ({(A, 1), (A, 3), (B, 1)}, {(B, 0)})


@pytest.mark.parametrize("line", ["keep aa:1", "add", "add aa:1 2", "add aa:9", "add zz:1"])
def test_a_line_of_another_form_is_named(tmp_path, line):
    path = tmp_path / "changes.txt"
    path.write_text(f"add {A}:1\n{line}\n")
    with pytest.raises(InputError, match=r"changes\.txt: line 2"):
        edits(file=path)


def test_a_changed_csv_is_compared(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"volume,slice,z_mm,kept\n{A},0,0,1\n{A},1,2.5,1\n{A},4,10,0\n{B},1,0,0\n")
    assert edits(file=path) == ({(A, 1)}, {(A, 4)})
    path.write_text(f"volume,slice,kept\n{A},7,1\n")
    with pytest.raises(InputError, match="line 2"):
        edits(file=path)


def test_they_are_spelled_short():
    assert spelled({(A, 1), (A, 2), (A, 3), (B, 0), (A, 9)}) == [f"{A}:1-3,9", f"{B}:0"]
