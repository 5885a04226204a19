"""What is read: stores, folders and lists, and what is said of those that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leaking import picture, rows_of
from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.images import decode
from lim_gpu.leaks import leaks
from lim_gpu.leaks.images import larger_pictures, read_images
from lim_gpu.leaks.search import Rule
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from stores import make_store

QUIET = Reporter(quiet=True)
RULE = Rule()


@pytest.mark.parametrize("kind", ["blank", "one", "one volume", "no split", "one split"])
def test_where_nothing_is_compared_nothing_is_answered(tmp_path, data_set, kind):
    source, across, message = tmp_path / kind, kind.endswith("split"), "no split is known, so --across compares nothing"
    source.mkdir()
    if kind == "one volume":
        source, message = make_store(source, (("chest", 8, 48, 40),)), "holds one volume"
    elif kind == "one split":
        rows = (data_set / "split.csv").read_text().replace("val", "train").replace("test", "Training")
        (data_set / "split.csv").write_text(rows)
        source = data_set
    else:
        count = {"blank": 0, "one": 1, "no split": 3}[kind]
        message = message if count > 1 else rf"{count} of {count + 2} images are not blank"
        for i in range(count):
            Image.fromarray(picture(i)).save(source / f"{i}.png")
        for i in range(2):
            Image.fromarray(np.full((40, 40), i, np.uint8)).save(source / f"blank{i}.png")
    with pytest.raises(InputError, match=message):
        leaks([source], tmp_path / "pairs.csv", RULE, across=across, reporter=QUIET)
    assert not (tmp_path / "pairs.csv").exists()


@pytest.mark.parametrize("parts", [("train", "test"), ("deep/Training", "deep/Testing")])
def test_folders_of_a_split_are_compared_across(tmp_path, parts):
    for place, part in enumerate(parts):
        for i in range(3):
            target = tmp_path / "in" / part / "ab"[i % 2] / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(10 * place + i * (place == 0 or i > 0))).save(target)
    Image.fromarray(picture(1)).save(tmp_path / "in" / parts[1] / "a" / "copy.png")
    Image.fromarray(picture(2)).save(tmp_path / "in" / parts[0] / "a" / "within.png")
    leaks([tmp_path / "in"], tmp_path / "pairs.csv", RULE, across=True, reporter=QUIET)
    (row,) = rows_of(tmp_path / "pairs.csv")
    assert {row["split_a"], row["split_b"], row["relation"]} == {"train", "test", "across splits"}


def test_splits_of_a_list_are_parts_whatever_their_case(data_set, tmp_path):
    text = (data_set / "split.csv").read_text()
    for old, new in (("file,label,split", "File,Label,Split"), ("train", "Training"), ("test", "TEST")):
        text = text.replace(old, new)
    (data_set / "split.csv").write_text(text)
    leaks([data_set], tmp_path / "pairs.csv", RULE, across=True, write_split=tmp_path / "clean.csv", reporter=QUIET)
    (row,) = rows_of(tmp_path / "pairs.csv")
    assert (row["split_a"], row["split_b"], row["label_a"]) == ("train", "test", "0")
    assert "a.png" not in [row["file"] for row in rows_of(tmp_path / "clean.csv")]  # the training image goes


def test_a_patient_column_that_is_not_there(data_set, tmp_path):
    with pytest.raises(InputError, match="has no column person. Give --patients one of file, label, split, patient"):
        leaks([data_set], tmp_path / "pairs.csv", RULE, patients="person", reporter=QUIET)


def test_16_bit_pictures_are_compared_as_their_8_bit_form_is(tmp_path):
    """DeepLesion's form, HU + 32768: clipped to 255 they were all blank."""
    for depth in (8, 16):
        folder = tmp_path / str(depth)
        folder.mkdir()
        for name, seed in {"a": 0, "b": 1, "copy of b": 1, "c": 2}.items():
            grey = picture(seed)
            Image.fromarray(grey if depth == 8 else grey.astype(np.uint16) * 10 + 31768).save(folder / f"{name}.png")
        result = leaks([folder], tmp_path / f"{depth}.csv", RULE, reporter=QUIET)
        assert result.skipped
        assert result.values["flat_images"] == 0
        assert [(row["a"], row["b"]) for row in rows_of(tmp_path / f"{depth}.csv")] == [("b.png", "copy of b.png")]
    deep = read_images(tmp_path / "16", "patient", QUIET)
    assert larger_pictures(deep, [0], 96, QUIET)[0].max() == 255


def test_a_picture_and_its_turned_twin_are_a_pair(tmp_path):
    image = Image.fromarray(picture(5))
    image.save(tmp_path / "a.jpg", quality=97)
    tags = Image.Exif()
    tags[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.jpg", quality=97, exif=tags)
    assert leaks([tmp_path], tmp_path / "pairs.csv", RULE, reporter=QUIET).values["pairs"] == 1


def test_a_source_that_is_given_twice_is_read_once(data_set, tmp_path, capsys):
    once = leaks([data_set], tmp_path / "once.csv", RULE, reporter=QUIET)
    twice = leaks([data_set, data_set / ".." / data_set.name], tmp_path / "twice.csv", RULE, reporter=Reporter())
    assert "given twice, read once" in capsys.readouterr().err
    assert (twice.values["images"], twice.values["pairs"]) == (once.values["images"], once.values["pairs"])


def test_a_16_bit_picture_looks_the_same_to_every_stage(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    deep = picture(1).astype(np.uint16) * 10 + 31768
    Image.fromarray(deep).save(folder / "a.png")
    ingest([folder], tmp_path / "slices", workers=1, reporter=QUIET)
    with SliceStore(tmp_path / "slices") as store, store[0] as volume:
        stored = Intensity().to_uint8(volume.read())[0]
    listed, kept = (read_images(path, "patient", QUIET) for path in (folder, tmp_path / "slices"))
    np.testing.assert_array_equal(decode(folder / "a.png")[0], stored)
    np.testing.assert_array_equal(listed.small, kept.small)
    np.testing.assert_array_equal(listed.hashes, kept.hashes)
    assert stored.min() == 0
    assert stored.max() == 255


def test_a_list_with_too_many_values_is_refused(data_set, tmp_path):
    text = (data_set / "split.csv").read_text()
    (data_set / "split.csv").write_text(text.replace("b.png,0", "b.png,0,more"))
    with pytest.raises(InputError, match="line 3 has too many columns"):
        leaks([data_set], tmp_path / "pairs.csv", RULE, write_split=tmp_path / "clean.csv", reporter=QUIET)


def test_one_damaged_picture_is_named_and_the_rest_goes_on(data_set, tmp_path, capsys):
    (data_set / "b.png").write_bytes((data_set / "b.png").read_bytes()[:50])
    result = leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    assert [name for name, _ in result.values["failures"]] == ["b.png"]
    assert "b.png" in capsys.readouterr().err
    assert result.skipped


def test_bad_input_is_one_line(data_set, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        leaks([tmp_path / "nothing"], tmp_path / "p.csv", RULE, reporter=QUIET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no PNG or JPEG"):
        leaks([tmp_path / "empty"], tmp_path / "p.csv", RULE, reporter=QUIET)
    (tmp_path / "empty" / "split.csv").write_text("file,split\n../set/a.png,train\n")
    with pytest.raises(InputError, match="leads out of its folder"):
        leaks([tmp_path / "empty"], tmp_path / "p.csv", RULE, reporter=QUIET)
    with pytest.raises(UsageError, match="candidates"):
        Rule(bits=7, candidates=6)
    leaks([data_set], tmp_path / "p.csv", RULE, reporter=QUIET)
    with pytest.raises(UsageError, match="overwrite"):
        leaks([data_set], tmp_path / "p.csv", Rule(bits=1), reporter=QUIET)


def test_a_list_says_what_its_paths_are_relative_to(data_set, tmp_path):
    (tmp_path / "clean.csv").write_bytes((data_set / "split.csv").read_bytes())
    with pytest.raises(InputError, match=r"clean.csv: none of its 6 files is in .*, to which its paths are relative"):
        leaks([tmp_path / "clean.csv"], tmp_path / "p.csv", RULE, reporter=QUIET)


def test_errors_of_one_kind_are_a_few_and_a_count(data_set, tmp_path, capsys):
    rows = "".join(f"gone{i}.png,0,train,p\n" for i in range(30))
    (data_set / "split.csv").write_text((data_set / "split.csv").read_text() + rows)
    result = leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=Reporter())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[-1] == "error: ... and 27 more of set: is not there"
    assert len(result.values["failures"]) == 30
