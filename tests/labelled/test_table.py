"""Labelled data sets of every form, and what is wrong with them in one line."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.labelled.table import read_table


def rows(n=8, **more):
    return [
        {"file": f"i{k}.png", "label": str(k % 2)} | {key: value(k) for key, value in more.items()} for k in range(n)
    ]


def test_labels_in_natural_order_and_no_split(make_folder):
    folder = make_folder([{"file": f"{k}.png", "label": label} for k, label in enumerate(("10", "9", "9", "10"))])
    table = read_table(folder)
    assert table.classes == ("9", "10")
    assert table.labels.tolist() == [1, 0, 0, 1]
    assert table.split is None
    assert table.patients is None


def test_a_split_and_patients(make_folder):
    table = read_table(
        make_folder(
            rows(split=lambda k: ("train", "val", "test")[k // 2 % 3], patient=lambda k: f"p{k}"), table="split.csv"
        )
    )
    assert table.split.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert table.patients[7] == "p7"


def test_a_folder_per_class_with_and_without_parts(make_folder):
    plain = read_table(
        make_folder([{"file": f"{c}/{k}.png", "label": c} for c in "ab" for k in (2, 10, 1)], table=None)
    )
    assert plain.files == ("a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/2.png", "b/10.png")
    assert plain.split is None
    parts = [{"file": f"{p}/{c}/{k}.png", "label": c} for p in ("train", "test") for c in "ab" for k in range(2)]
    split = read_table(make_folder(parts, name="parts", table=None))
    assert split.classes == ("a", "b")
    assert np.bincount(split.split).tolist() == [4, 0, 4]


@pytest.mark.parametrize("name", ["a.dcm", "IM0001", "a.nii.gz"])
@pytest.mark.parametrize("listed", [True, False])
def test_scans_are_told_the_way(tmp_path, name, listed):
    for label in ("ill", "well"):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_bytes(bytes(128) + b"DICM")
    if listed:
        (tmp_path / "labels.csv").write_text(f"file,label\nill/{name},ill\nwell/{name},well\n")
    with pytest.raises(InputError, match=f"{name}: is no picture but a scan. Run lim-gpu ingest {tmp_path} -o slices"):
        read_table(tmp_path)


def medmnist(path, classes=3, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{part}_images"] = rng.integers(0, 255, (n, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % classes
    np.savez(path, **arrays | changes)
    return path


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("TRAIN", "Valid", "test"), ("train_set", "validation set", "test_set")]
)
def test_folders_of_a_split_are_parts_and_no_classes(make_folder, names):
    files = [{"file": f"{p}/{c}/{k}.png", "label": c} for p in names for c in ("glioma", "normal") for k in range(2)]
    folder = make_folder(files, table=None)
    for left_behind in (".ipynb_checkpoints", "__MACOSX", "__MACOSX/train", f"{names[0]}/.hidden", "empty/notes"):
        (folder / left_behind).mkdir(parents=True)
    (folder / names[0] / "glioma" / "._0.png").write_bytes(b"resource fork")
    table = read_table(folder)
    assert table.classes == ("glioma", "normal")
    assert np.bincount(table.split, minlength=3).tolist() == [4, 4 * (len(names) == 3), 4]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/a", "train/b", "val/a", "val/b"], "has train, val and no test part. Add it"),
        (["Test/a", "Test/b"], "has Test and no train part"),
        (["train/a", "test/a", "val/a", "valid/a"], "val, valid are both the val part"),
        (
            ["train/a", "train/b", "test/a", "test/b", "other/a"],
            "train, test|test, train are parts of a split, other no",
        ),
        (["a", "b", "Test"], "Test are parts of a split, a, b no part. Rename or remove some, or name the files in"),
        (["train/a", "train/test", "test/a", "test/test"], "test stands within a part and is called like one"),
    ],
)
def test_folders_that_are_half_a_split_are_refused(make_folder, folders, message):
    folder = make_folder([{"file": f"{name}/1.png", "label": "x"} for name in folders], table=None)
    with pytest.raises(InputError, match=message):
        read_table(folder)


@pytest.mark.parametrize("name", ["split.csv", "labels.csv"])
@pytest.mark.parametrize(
    "head", ["File,Label,Split", "file, label, split", " FILE ,Class,Subset", "image_path,target,Partition"]
)
def test_a_split_counts_in_any_list_whatever_its_columns_are_called(make_folder, head, name):
    folder = make_folder(rows(), table=None)
    gap = ", " if ", " in head else ","
    parts = ("Train", "training", "VALID", "Test")
    lines = [gap.join((f"i{k}.png", str(k % 2), parts[k // 2])) for k in range(8)]
    (folder / name).write_text("\n".join([head, *lines]))
    table = read_table(folder)
    assert (table.classes, table.split.tolist()) == (("0", "1"), [0, 0, 0, 0, 1, 1, 2, 2])


def test_medmnist(tmp_path):
    table = read_table(medmnist(tmp_path / "organ.npz"))
    assert table.classes == ("0", "1", "2")
    assert len(table) == 24
    assert table.files[12] == "val/0"
    assert len(set(table.digests)) == 24


def test_the_fingerprint_follows_content(make_folder):
    folder = make_folder(rows())
    before = read_table(folder).fingerprint()
    assert read_table(folder).fingerprint() == before
    (folder / "i0.png").write_bytes((folder / "i1.png").read_bytes())
    assert read_table(folder).fingerprint() != before


def test_groups_join_patients_and_equal_images(make_folder):
    folder = make_folder(rows(patient=lambda k: f"p{k // 2}"))
    (folder / "i2.png").write_bytes((folder / "i7.png").read_bytes())
    groups = read_table(folder).groups().tolist()
    assert groups[0] == groups[1]
    assert groups[2] == groups[3] == groups[6] == groups[7]
    assert len(set(groups)) == 3
    assert len(set(read_table(folder).groups(["same"] * 8).tolist())) == 1


def fails(path, *words):
    with pytest.raises(InputError) as error:
        read_table(path)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_a_table_that_cannot_be_used(make_folder, tmp_path):
    folder = make_folder(rows())
    table = folder / "labels.csv"
    text = table.read_text()

    def wrong(text, *words, name="labels.csv"):
        table.unlink(missing_ok=True)
        (folder / name).write_text(text)
        fails(folder, name, *words)
        (folder / name).unlink()

    wrong(text.replace("label", "finding"), "has no column label", "file,label")
    wrong(text.replace("i3.png,1", "i3.png,"), "line 5 has no label")
    wrong(text.replace("i3.png,1", "i3.png"), "line 5 has no label")
    wrong(text.replace("i3.png,1", "i3.png,1,2"), "line 5", "too many columns")
    wrong(text.replace("i3.png", "none.png"), "line 5", "none.png")
    wrong(text.replace("i3.png", "i2.png"), "i2.png stands in lines 4 and 5")
    wrong("file,label,split\ni0.png,0,dev\n", "split 'dev' is unknown", "train, val, test", name="split.csv")
    (folder / "labels.csv").write_text("".join(f"{line}\n" for line in text.replace(",1", ",0").split()))
    fails(folder, "one class only: 0")
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00")
    fails(folder, "UTF-8")
    (folder / "labels.csv").unlink()
    fails(folder, "neither split.csv nor labels.csv nor a folder per class")
    fails(tmp_path / "nowhere", "no such folder")


def test_a_list_from_elsewhere_takes_the_place_of_the_folders_own(make_folder, tmp_path):
    folder = make_folder(rows(split=lambda k: ("train", "test")[k // 4 % 2]), table="split.csv")
    text = (folder / "split.csv").read_text().splitlines()
    (tmp_path / "clean.csv").write_text("\n".join([text[0], *text[2:]]) + "\n")
    assert len(read_table(folder, tmp_path / "clean.csv")) == len(read_table(folder)) - 1
    fails(tmp_path / "clean.csv", "is a list", f"--split {tmp_path / 'clean.csv'}")
    (tmp_path / "clean.csv").write_text("file,label,split\nnone.png,0,train\n")
    with pytest.raises(InputError, match=r"there is no file none.png in .*data, to which paths are relative"):
        read_table(folder, tmp_path / "clean.csv")


def test_a_split_that_cannot_be_used(make_folder):
    fails(
        make_folder(rows(split=lambda k: "train"), table="split.csv", name="a"),
        "the test part has no image of class 0, 1",
    )
    leaking = rows(split=lambda k: ("train", "test")[k // 4], patient=lambda k: f"p{k % 4}")
    fails(make_folder(leaking, table="split.csv", name="b"), "patient p0 stands in train and test")


def test_an_npz_that_cannot_be_used(tmp_path):
    fails(tmp_path / "none.npz", "none.npz")
    (tmp_path / "text.npz").write_text("x")
    fails(tmp_path / "text.npz", "cannot be read as .npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    fails(tmp_path / "other.npz", "train_images", "MedMNIST")
    fails(medmnist(tmp_path / "multi.npz", train_labels=np.zeros((12, 14), np.uint8)), "14 labels an image")
    for labels in (np.array(list("ab" * 6)), np.linspace(0, 1, 12)):
        fails(medmnist(tmp_path / "odd.npz", train_labels=labels), "train_labels hold", "Give a number a class")
    pickled = np.array([object()] * 12)
    fails(medmnist(tmp_path / "pickled.npz", train_labels=pickled), "train_labels cannot be read")
