"""Names of parts and columns, and the folders that count."""

from __future__ import annotations

import pytest

from lim_gpu.labelled.parts import columns_of, part_of, patient_column, pictures_below


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("train", "train Train TRAINING train_set trainset train-data Training_Images trn"),
        ("val", "val Valid validation VALIDATION_SET val_data"),
        ("test", "test Testing TEST_set tst hold-out"),
        (None, "trained retest tests1 validity dataset set data normal contest 0 train1"),
    ],
)
def test_a_part_by_any_usual_name(part, names):
    assert {part_of(name) for name in names.split()} == {part}
    assert part_of("") is None


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["file", "label", "split"], ["file", "label", "split"]),
        (["File", " LABEL ", "Subset"], ["file", "label", "split"]),
        (["path", "file", "class", "note"], ["path", "file", "label", "note"]),
        (["filename", "path", "label", "Class"], ["file", "path", "label", "Class"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_columns_by_our_names_where_they_have_one(given, ours):
    assert columns_of(given) == ours


def test_the_patient_column():
    assert patient_column(["file", "Subject_ID", "patient"]) == "Subject_ID"
    assert patient_column(["file", "person"]) is None


def test_what_is_left_behind_is_no_picture(tmp_path):
    for name in ("a/1.PNG", "a/b/2.jpeg", ".hidden/3.png", "a/._4.png", "__MACOSX/a/5.png", "a/6.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = sorted(str(path.relative_to(tmp_path)) for path in pictures_below(tmp_path))
    assert found == ["a/1.PNG", "a/b/2.jpeg"]
