"""Splits: every image tests once, classes stay even, and no patient stands on two sides."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from lim_gpu.errors import InputError, UsageError
from lim_gpu.finetune.protocol import protocol
from lim_gpu.finetune.request import Request
from lim_gpu.finetune.splits import Split, make_splits, splits_of, take_fraction
from lim_gpu.labelled.table import Table


def table(labels, patients=None, split=None):
    labels = np.asarray(labels, dtype=np.int64)
    names = tuple(str(c) for c in range(labels.max() + 1))
    split = None if split is None else np.asarray(split)
    return Table(Path("data"), tuple(map(str, range(len(labels)))), labels, names, patients, split)


def groups_of(table):
    if table.patients is None:
        return np.arange(len(table))
    return np.unique(np.array(table.patients), return_inverse=True)[1]


def splits(table, runs=None, folds=None, seed=0):
    return make_splits(table, runs, folds, seed, groups_of(table))


def test_folds_are_stratified_90_10_inside_and_cover_everything():
    found = splits(table([0] * 100 + [1] * 100))
    assert [len(part) for part in (found[0].train, found[0].val, found[0].test)] == [144, 16, 40]
    assert sorted(np.concatenate([split.test for split in found])) == list(range(200))
    for split in found:
        for part in (split.train, split.val, split.test):
            assert (part < 100).sum() * 2 == len(part)
    assert [split.seed for split in found] == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), folds=st.integers(2, 4), size=st.integers(1, 5), mixed=st.booleans())
def test_no_patient_is_ever_on_two_sides(seed, folds, size, mixed):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(60), size)
    labels = rng.integers(0, 2, len(patient)) if mixed else patient % 2
    data = table(labels, tuple(map(str, patient)))
    found = splits(data, folds=folds, seed=seed)
    tested = np.concatenate([split.test for split in found])
    assert sorted(tested) == list(range(len(data)))
    for split in [*found, *splits(data, runs=2, seed=seed)]:
        sides = [set(patient[part]) for part in (split.train, split.val, split.test)]
        assert len(sides[0]) + len(sides[1]) + len(sides[2]) == len(set(patient))
        assert all(len(np.unique(labels[part])) == 2 for part in (split.train, split.test))


def test_classes_stay_even_among_patients_of_unequal_size():
    patient = np.repeat(np.arange(40), np.arange(40) % 5 + 1)
    labels = patient % 2
    data = table(labels, tuple(map(str, patient)))
    shares = [labels[split.test].mean() for split in splits(data)]
    assert max(shares) - min(shares) < 0.1


def test_the_same_seed_gives_the_same_splits_and_another_others():
    data = table([0, 1] * 30)
    first, again, other = (splits(data, folds=3, seed=seed) for seed in (1, 1, 2))
    assert all(
        np.array_equal(a.test, b.test) and np.array_equal(a.val, b.val) for a, b in zip(first, again, strict=True)
    )
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


def test_the_splits_of_a_seed_are_these_with_every_version():
    """Where they change, `ALGORITHM` of finetune is raised."""
    patients = tuple("aabbccddeeffgghh")
    found = splits(table([0, 1] * 8, patients), folds=2, seed=5)
    assert ["".join(dict.fromkeys(patients[i] for i in split.test)) for split in found] == ["bcgh", "adef"]
    alone = splits(table([0, 1] * 8), folds=2, seed=5)
    assert [split.test.tolist() for split in alone] == [[4, 6, 7, 10, 11, 13, 14, 15], [0, 1, 2, 3, 5, 8, 9, 12]]
    assert [split.val.tolist() for split in alone] == [[1, 12], [4, 7]]


def test_a_fixed_split_stays_in_every_run():
    data = table([0, 1] * 15, split=[0] * 16 + [1] * 6 + [2] * 8)
    found = splits(data)
    assert len(found) == 5
    assert all(
        split.test.tolist() == list(range(22, 30)) and split.val.tolist() == list(range(16, 22)) for split in found
    )


def test_a_split_without_validation_takes_it_from_training():
    data = table([0, 1] * 15, split=[0] * 20 + [2] * 10)
    for split in splits(data, runs=2):
        assert sorted([*split.train, *split.val]) == list(range(20))
        assert len(split.val) == 2


def test_runs_without_a_split_draw_their_own():
    found = splits(table([0, 1] * 50), runs=3)
    assert [len(split.test) for split in found] == [20, 20, 20]
    assert not np.array_equal(found[0].test, found[1].test)


def test_what_cannot_be_split():
    with pytest.raises(UsageError, match="exclude each other"):
        splits(table([0, 1] * 20), runs=2, folds=2)
    with pytest.raises(UsageError, match="is fixed. Give --runs"):
        splits(table([0, 1] * 15, split=[0] * 20 + [2] * 10), folds=5)


@pytest.mark.parametrize(
    ("rare", "asked", "remedy"),
    [
        (3, {}, r"3 patients, too few for 5 parts \(--folds 5\). Give --folds 3, or add patients"),
        (
            3,
            {"runs": 2},
            r"3 patients, too few for 5 parts \(a random split\). Give --folds 3 in place of --runs, or add patients",
        ),
        (2, {}, r"2 patients, too few for 5 parts \(--folds 5\). Leave its rows out, or add patients"),
        (1, {}, r"1 patient, too few for 5 parts \(--folds 5\). Leave its rows out, or add patients"),
        (3, {"folds": 2}, r"1 patient, too few for 2 parts \(validation\). Give --folds 3, or add patients"),
        (2, {"folds": 2}, r"1 patient, too few for 2 parts \(validation\). Leave its rows out, or add patients"),
    ],
)
def test_a_class_of_few_patients_is_told_what_would_do(rare, asked, remedy):
    """What is offered works."""
    few = patients_with([(0, 0)] * 20 + [(1, 1)] * rare)
    with pytest.raises(InputError, match=f"class 1 has {remedy}"):
        splits(few, **asked)
    if rare == 3:
        assert len(splits(few, folds=3)) == 3


def test_a_fixed_split_without_a_part_to_choose_by_is_told_to_have_one():
    with pytest.raises(
        InputError, match=r"class 1 has 1 image, too few for 2 parts \(validation\). Give a split with val"
    ):
        splits(table([0] * 20 + [1] * 5, split=[0] * 21 + [2] * 4))


def test_what_is_too_few_are_images_where_no_patient_is_known():
    with pytest.raises(InputError, match="class 1 has 3 images, too few for 5 parts .* or add images"):
        splits(table([0] * 20 + [1] * 3))


def patients_with(labels_by_patient):
    """A table of patients with these labels of their images each."""
    patients = [f"p{number}" for number, labels in enumerate(labels_by_patient) for _ in labels]
    return table([label for labels in labels_by_patient for label in labels], tuple(patients))


def test_fractions_are_nested_patient_wise_and_stratified():
    """40 patients without and 10 with the finding, on one of their three images."""
    data, groups = patients_with([(0, 0, 0)] * 40 + [(0, 1, 0)] * 10), np.repeat(np.arange(50), 3)
    none = np.array([], dtype=np.int64)
    for seed in range(3):
        whole, before = Split(0, seed, np.arange(150), none, none), set()
        for fraction, patients in ((0.01, 2), (0.1, 5), (0.25, 13), (0.5, 25), (1.0, 50)):
            train = take_fraction(data, whole, fraction, groups).train
            taken = set(groups[train].tolist())
            assert len(train) == 3 * len(taken)
            assert before <= taken
            assert (sum(group >= 40 for group in taken), len(taken)) == (math.ceil(10 * fraction), patients)
            before = taken
    assert len({tuple(take_fraction(data, replace(whole, seed=s), 0.1, groups).train) for s in range(5)}) > 1


def test_a_fraction_leaves_validation_and_test_as_they_are():
    data, groups = patients_with([(0, 1)] * 30), np.repeat(np.arange(30), 2)
    split = Split(0, 1, np.arange(40), np.arange(40, 50), np.arange(50, 60))
    part = take_fraction(data, split, 0.5, groups)
    assert len(part.train) == 20
    assert part.val is split.val
    assert part.test is split.test


def test_validation_of_one_class_is_refused_where_auc_chooses():
    """A fixed validation part of one patient, who has the finding on every image."""
    data = table(
        [0] * 12 + [1] * 12, tuple(f"p{n // 3}" for n in range(24)), [0] * 9 + [2] * 3 + [0] * 6 + [1] * 3 + [2] * 3
    )
    asked = Request(Path("data"), protocol("wolf2024-paper"), choose="auc", runs=1)
    with pytest.raises(InputError, match="the val part of run 0 has no image of class 0, and so no AUC"):
        splits_of(asked, data, groups_of(data))
    assert len(splits_of(replace(asked, choose="accuracy"), data, groups_of(data))) == 1
