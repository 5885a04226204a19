"""Near-duplicates: what is found, what is not, and what is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leaking import picture, rows_of
from lim_gpu.cli.program import cli
from lim_gpu.errors import InputError, UsageError
from lim_gpu.leaks import leaks
from lim_gpu.leaks.clusters import find_clusters, keep_list
from lim_gpu.leaks.images import Item, larger_pictures, read_images
from lim_gpu.leaks.search import Pair, Rule, find_pairs, leaking, pairs_among, split_patients
from lim_gpu.progress import Reporter
from lim_gpu.similarity.hash import close_pairs, hamming_matrix
from stores import make_store

QUIET = Reporter(quiet=True)
RULE = Rule()


def test_a_resized_copy_across_splits_is_found_with_its_label(data_set, tmp_path):
    result = leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    assert result.skipped
    (row,) = rows_of(tmp_path / "pairs.csv")
    assert (row["a"], row["b"], row["relation"], row["evidence"]) == ("a.png", "copy.jpg", "across splits", "both")
    assert result.values["different_labels"] == 1
    assert json.loads((tmp_path / "pairs.json").read_text())["pairs"] == 1
    page = (tmp_path / "pairs.html").read_text()
    assert "copy.jpg" in page
    assert "http" not in page


def test_a_clean_set_finds_nothing(data_set, tmp_path):
    (data_set / "copy.jpg").unlink()
    rows = [row for row in rows_of(data_set / "split.csv") if row["file"] != "copy.jpg"]
    with open(data_set / "split.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    assert not result.skipped
    assert rows_of(tmp_path / "pairs.csv") == []
    page = (tmp_path / "pairs.html").read_text()
    assert "No near-duplicate pairs" in page
    assert "<table" not in page


def test_the_new_split_leaves_out_the_training_image_and_nothing_else(data_set, tmp_path):
    before = (data_set / "split.csv").read_bytes()
    leaks([data_set], tmp_path / "pairs.csv", RULE, write_split=tmp_path / "clean.csv", reporter=QUIET)
    names = [row["file"] for row in rows_of(tmp_path / "clean.csv")]
    assert names == ["b.png", "c.png", "d.png", "e.png", "copy.jpg"]
    assert (data_set / "split.csv").read_bytes() == before
    with pytest.raises(UsageError, match="is the list that is read"):
        leaks([data_set], tmp_path / "p.csv", RULE, write_split=data_set / "split.csv", reporter=QUIET)


def test_groups_and_the_list_of_what_to_keep(tmp_path, capsys):
    folder = tmp_path / "plain"
    (folder / "more").mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    for name in ("more/0.png", "z.png"):
        Image.fromarray(picture(0, 150)).save(folder / name)
    Image.fromarray(picture(1)).save(folder / "one.jpg", quality=90)
    lists = ["--clusters", str(tmp_path / "g.csv"), "--keep-list", str(tmp_path / "keep.txt")]
    with pytest.raises(SystemExit):
        cli.main(["leaks", str(folder), "-o", str(tmp_path / "p.csv"), *lists], standalone_mode=False)
    rows = [(row["cluster"], row["keep"], row["image"]) for row in rows_of(tmp_path / "g.csv")]
    first, second = rows[:3], rows[3:]
    assert first == [("1", "1", "0.png"), ("1", "0", "more/0.png"), ("1", "0", "z.png")]
    assert second == [("2", "1", "1.png"), ("2", "0", "one.jpg")]
    assert (tmp_path / "keep.txt").read_text().split() == ["0.png", "1.png", "2.png"]
    assert "to keep: 3 of 6 images" in capsys.readouterr().out


def test_groups_of_several_labels_are_said(tmp_path):
    folder = tmp_path / "labelled"
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        Image.fromarray(picture(0)).save(folder / label / "same.png")
    rows = "file,label\nleft/same.png,left\nright/same.png,right\n"
    (folder / "labels.csv").write_text(rows)
    found = leaks([folder / "labels.csv"], tmp_path / "p.csv", RULE, groups=tmp_path / "g.csv", reporter=QUIET)
    assert found.values["clusters_of_several_labels"] == 1
    assert any(line.startswith("with several labels: 1 group;") for line in found.lines)


def test_a_chain_is_one_group_and_the_test_image_stays():
    items = [Item("c", str(i), str(i), Path(), split) for i, split in enumerate(("train", "train", "test", "val", ""))]
    pairs = [Pair(0, 1, 0, 1.0, "both"), Pair(1, 2, 0, 1.0, "both")]
    assert find_clusters(items, pairs) == [[2, 0, 1]]
    assert keep_list(items, [[2, 0, 1]]).split() == ["2", "3", "4"]
    others = [*items, Item("d", "x", "x", Path())]
    assert keep_list(others, [[2, 0, 1]]).split() == ["c/2", "c/3", "c/4", "d/x"]


def test_mutual_information_confirms_what_another_window_hides_from_ssim(tmp_path):
    """Another window is another picture to SSIM and the same information; a third image is neither."""
    grey = picture(1)
    for name, pixels in {"a": grey, "window": (grey // 3 + 90).astype(np.uint8), "other": picture(2)}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = {}
    for confirm, threshold in (("ssim", 0.999), ("mi", 1.25)):
        rule = Rule(bits=0, candidates=40, confirm=confirm, threshold=threshold)
        leaks([tmp_path], tmp_path / f"{confirm}.csv", rule, reporter=QUIET)
        found[confirm] = {(row["a"], row["b"]): row for row in rows_of(tmp_path / f"{confirm}.csv")}
    pair = found["mi"]["a.png", "window.png"]
    assert float(pair["value"]) > 1.25
    assert pair["evidence"] in ("mi", "both")
    assert not [names for names, row in found["mi"].items() if "other.png" in names and int(row["bits"]) > 0]
    assert found["ssim"].get(("a.png", "window.png"), {"evidence": "hash"})["evidence"] == "hash"


def test_the_gallery_shows_pictures_in_their_own_shape(tmp_path):
    wide = np.asarray(Image.fromarray(picture(1)).resize((300, 100)))
    for name in "ab":
        Image.fromarray(wide).save(tmp_path / f"{name}.png")
    images = read_images(tmp_path, "patient", QUIET)
    assert larger_pictures(images, [0, 1], 150, QUIET)[1].shape == (50, 150)
    (tmp_path / "b.png").unlink()
    assert larger_pictures(images, [1], 150, QUIET)[1].shape == (64, 64)
    store = make_store(tmp_path / "x", (("chest", 3, 48, 40),))
    assert larger_pictures(read_images(store, "patient", QUIET), [2], 24, QUIET)[2].shape == (24, 20)


def test_a_dry_run_and_json(data_set, tmp_path, capsys):
    plan = leaks([data_set], tmp_path / "pairs.csv", RULE, dry_run=True, reporter=QUIET)
    assert [name.rpartition(".")[2] for name in plan.values["outputs"]] == ["csv", "json", "html"]
    assert not list(tmp_path.glob("pairs.*"))
    with pytest.raises(SystemExit) as end:
        cli.main(["leaks", str(data_set), "-o", str(tmp_path / "pairs.csv"), "--json"], standalone_mode=False)
    assert end.value.code == 5
    assert json.loads(capsys.readouterr().out)["pairs"] == 1


def test_two_folders_are_compared_with_each_other(data_set, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(picture(3)).save(other / "x.png")
    Image.fromarray(picture(3)).save(other / "y.png")
    leaks([data_set, other], tmp_path / "pairs.csv", RULE, across=True, reporter=QUIET)
    found = {(row["a"], row["b"]) for row in rows_of(tmp_path / "pairs.csv") if row["relation"] == "across collections"}
    assert found == {("d.png", "x.png"), ("d.png", "y.png")}
    assert ("x.png", "y.png") not in {(row["a"], row["b"]) for row in rows_of(tmp_path / "pairs.csv")}


def test_slices_of_one_volume_are_not_compared_but_those_of_two_are(tmp_path):
    shapes = (("chest", 8, 48, 40), ("chest", 8, 48, 40))
    store = make_store(tmp_path, shapes)
    images = read_images(store, "patient", QUIET)
    assert len(images.items) == 16
    result = leaks([store], tmp_path / "pairs.csv", Rule(bits=6), reporter=QUIET)
    rows = rows_of(tmp_path / "pairs.csv")
    assert all(row["a"].split(":")[0] != row["b"].split(":")[0] for row in rows)
    assert all(row["same_patient"] == "1" for row in rows)
    assert result.values["images"] == 16


def test_close_pairs_equal_the_whole_matrix():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = np.concatenate([base, base ^ np.uint64(5), base ^ (np.uint64(1) << np.uint64(63))])
    groups = rng.integers(0, 7, len(hashes))
    distances = hamming_matrix(hashes)
    for bits in (0, 2, 3, 30):
        i, j = np.nonzero(np.triu((distances <= bits) & (groups[:, None] != groups), 1))
        expected = np.stack([i, j, distances[i, j]], axis=1)
        assert np.array_equal(close_pairs(hashes, bits, groups), expected)
    assert close_pairs(hashes[:1], 64, groups[:1]).shape == (0, 3)


def test_a_patient_in_two_splits_leaks_without_any_alike_image():
    items = [
        Item("set", "1", "1", Path("1"), "train", patient="p"),
        Item("set", "2", "2", Path("2"), "test", patient="p"),
        Item("set", "3", "3", Path("3"), "train", patient="q"),
        Item("set", "4", "4", Path("4"), "train", patient="q"),
    ]
    shared = split_patients(items)
    assert shared == {"p": ["test", "train"]}
    assert leaking(items, [], shared) == {0}
    assert leaking(items, [Pair(1, 2, 0, 1.0, "both")], {}) == {2}


def test_blank_images_are_counted_and_not_compared(tmp_path):
    for name in "ab":
        Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(picture(ord(name))).save(tmp_path / f"other_{name}.png")
    result = leaks([tmp_path], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    assert result.values["flat_images"] == 2
    assert not result.skipped


def test_again_it_is_unchanged_until_something_is(data_set, tmp_path):
    how = {"write_split": tmp_path / "clean.csv", "reporter": QUIET}
    first = leaks([data_set], tmp_path / "p.csv", RULE, **how)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
    for dry_run in (False, True):
        again = leaks([data_set], tmp_path / "p.csv", RULE, dry_run=dry_run, **how)
        assert again.lines[0] == f"unchanged: {tmp_path / 'p.csv'}, p.json, p.html"
        assert again.lines[1:] == first.lines[:-1]
        assert again.skipped  # the same exit code
        assert again.values["pairs"] == first.values["pairs"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")} == before
    Image.fromarray(picture(9)).save(data_set / "c.png")
    with pytest.raises(UsageError, match="made otherwise"):
        leaks([data_set], tmp_path / "p.csv", RULE, dry_run=True, **how)


def test_with_a_new_template_it_is_another_page(data_set, tmp_path, make_newer):
    leaks([data_set], tmp_path / "p.csv", RULE, reporter=QUIET)
    make_newer("templates/leaks.html")
    with pytest.raises(UsageError, match="made otherwise"):
        leaks([data_set], tmp_path / "p.csv", RULE, reporter=QUIET)


def test_the_record_has_its_keys_in_the_order_that_is_documented(data_set, tmp_path):
    leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text().split("`pairs.json` has, in this order:")[1]
    assert list(json.loads((tmp_path / "pairs.json").read_text())) == re.findall(r"`(\w+)`", text.split(".\n")[0])


def test_pairs_among_are_those_of_the_whole_search(tmp_path):
    store = make_store(tmp_path, (("chest", 6, 48, 40), ("chest", 7, 48, 40)))
    images = read_images(store, "patient", QUIET)
    rule = Rule(bits=3, candidates=20, threshold=0.5)
    everything = [(a, b) for b in range(13) for a in range(b)]
    found = find_pairs(images, rule, across=False)
    assert {pair.evidence for pair in found} > {"ssim"}
    assert sorted(pairs_among(everything, images, rule, False), key=str) == sorted(found, key=str)
    assert pairs_among([], images, rule, False) == []


def test_a_rejected_pair_counts_nowhere(data_set, tmp_path, monkeypatch):
    leaks([data_set], tmp_path / "pairs.csv", RULE, reporter=QUIET)
    (tmp_path / "mine.csv").write_text((tmp_path / "pairs.csv").read_text())  # its rows are such a list
    how = {"reject": tmp_path / "mine.csv", "write_split": tmp_path / "clean.csv", "reporter": QUIET}
    result = leaks([data_set], tmp_path / "rest.csv", RULE, **how)
    assert (result.values["pairs"], result.values["rejected"], result.skipped) == (0, 1, False)
    assert [row["file"] for row in rows_of(tmp_path / "clean.csv")] == [
        row["file"] for row in rows_of(data_set / "split.csv")
    ]
    monkeypatch.setattr("lim_gpu.leaks.find_pairs", None)  # refused before all are compared
    (tmp_path / "mine.csv").write_text("a,b\nb.png,nobody.png\n")
    with pytest.raises(InputError, match="mine.csv: nobody.png is no image of the sources"):
        leaks([data_set], tmp_path / "rest.csv", RULE, overwrite=True, **how)
    (tmp_path / "mine.csv").write_text("a,b\nb.png,c.png\n")
    with pytest.raises(InputError, match="mine.csv: b.png and c.png are no pair that is found"):
        leaks([data_set], tmp_path / "rest.csv", RULE, overwrite=True, **how)


REAL = Path(__file__).parents[3] / "shared" / "data" / "classification"


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures of ../shared/data are not here")
def test_real_pictures(tmp_path):
    leaks([REAL / "covid-ct"], tmp_path / "covid.csv", RULE, reporter=QUIET)
    rows = rows_of(tmp_path / "covid.csv")
    near = [row for row in rows if int(row["bits"]) <= 2]
    across = [row for row in near if {row["split_a"], row["split_b"]} == {"train", "test"}]
    assert (len(near), len(across)) == (23, 4)  # as the data's README counts
    leaks([REAL / "head-ct"], tmp_path / "head.csv", RULE, reporter=QUIET)
    same = {(row["a"], row["b"]) for row in rows_of(tmp_path / "head.csv") if float(row["value"]) == 1}
    assert same == {("images/188.png", "images/189.png")}
