"""Reports of selections: what they show, and what they must never show."""

from __future__ import annotations

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")

import nibabel

from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.phantom import phantom
from lim_gpu.reduction.edit import select_verb
from lim_gpu.reduction.run import reduce
from lim_gpu.report import write_report
from lim_gpu.report.figures import knee, knee_left
from lim_gpu.report.selection_report import FARTHER
from lim_gpu.report.shown import read_selections
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from stores import make_store
from volumes import write_store


def store_of_hu(folder: Path) -> Path:
    voxels = phantom("chest", 4, 48, 40, seed=0).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), folder / "v.nii")
    ingest([folder / "v.nii"], folder / "slices", workers=1)
    return folder / "slices"


class Links(HTMLParser):
    """Collects what a page would load or lead to, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]


def test_one_selection_is_shown_whole_and_offline(reduced, tmp_path):
    write_report([reduced / "ssim.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    with SliceStore(reduced / "slices") as store:
        for entry in store.volumes:
            assert entry.key in text
            assert "p0" in entry.name
            assert entry.name in text  # kept on purpose, by --keep-identifiers
            assert entry.patient not in text
    assert "http" not in text
    links = Links(text)
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert links.images > 20
    assert (
        text.count("<svg") == 2 + 2 * 3 + 1
    )  # two of all; matrix and curve of each volume, no curve of a single slice
    assert "14 slices" in text


def test_several_selections_stand_beside_each_other(reduced, tmp_path):
    write_report([reduced / "ssim.csv", reduced / "hash.csv", reduced / "every.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "Overlap" in text
    assert text.count("100 %") >= 3
    for title in ("ssim keep 0.3", "hash threshold 6", "every-n keep 0.3"):
        assert title in text
    for title in ("ssim keep 0.3", "hash threshold 6"):
        assert f"{title}: every pair of slices" in text
        assert f"{title}: removal curve" in text
        assert f"{title}: dropped slices (left)" in text  # a gallery of its own
    for option in ("keep of ssim keep 0.3", "threshold of hash threshold 6"):
        assert f'aria-label="{option}"' in text
    columns = text[text.index("<h2>All volumes") :]
    assert columns.count('colspan="2"') == 3
    for name in ("ssim", "hash", "every"):
        kept = sum(row["kept"] == "1" for row in csv.DictReader((reduced / f"{name}.csv").open()))
        assert f"{kept} of 35 slices kept" in text
    assert re.search(r">\d+ bits apart</td>", columns)
    assert re.search(r">SSIM 0\.\d{4}</td>", columns)
    assert "every-n with" not in text  # it is one of the three


def test_two_selections_of_one_kind_are_told_apart_by_their_files(reduced, tmp_path):
    for end in (".csv", ".json"):
        shutil.copy(reduced / f"ssim{end}", tmp_path / f"again{end}")
    shown = read_selections([reduced / "ssim.csv", tmp_path / "again.csv"])
    assert [one.title for one in shown] == ["ssim keep 0.3 (ssim.csv)", "ssim keep 0.3 (again.csv)"]
    assert shown[0].colour != shown[1].colour


def test_a_volume_of_which_nothing_is_kept_has_no_control(tmp_path):
    store = make_store(tmp_path, (("chest", 6, 48, 40), ("chest", 6, 48, 40)))
    with SliceStore(store) as opened:
        reduce(opened, "ssim", keep_count=1, scope="dataset", output=tmp_path / "one.csv", device="cpu")
    write_report([tmp_path / "one.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("every-n with 1 slice<") == 1
    assert "every-n with 0" not in text


def test_pictures_take_the_window_that_is_asked_for(tmp_path):
    store = store_of_hu(tmp_path)
    with SliceStore(store) as opened:
        reduce(opened, "every-n", keep=0.5, output=tmp_path / "s.csv")
    pages = {}
    for window in (None, "lung"):
        write_report([tmp_path / "s.csv"], tmp_path / f"{window}.html", window=window)
        pages[window] = (tmp_path / f"{window}.html").read_text()
    assert "each slice from its own minimum" in pages[None]
    assert "from -1150 to 350 HU" in pages["lung"]
    first = [re.search(r'<img src="(data:[^"]+)"', page)[1] for page in pages.values()]
    assert first[0] != first[1]
    with pytest.raises(UsageError, match="is unknown. Did you mean lung"):
        write_report([tmp_path / "s.csv"], tmp_path / "x.html", window="lungs")


def test_units_of_several_volumes_have_no_matrix_of_their_own(reduced, tmp_path):
    write_report([reduced / "patient.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "a line a patient" in text
    elsewhere = [
        row
        for row in csv.DictReader((reduced / "patient.csv").open())
        if row["kept"] == "0" and row["covered_by"].count(":")
    ]
    with SliceStore(reduced / "slices") as store:
        assert all(entry.patient not in text for entry in store.volumes)
    assert bool(elsewhere) == bool(re.search(r"z&nbsp;\S+ of <code>", text))


def test_a_slice_of_another_volume_is_shown_beside_what_it_covers(tmp_path):
    store = make_store(tmp_path, (("chest", 6, 48, 40), ("chest", 6, 48, 40)))
    with SliceStore(store) as opened:
        reduce(opened, "ssim", keep=0.1, scope="dataset", output=tmp_path / "all.csv", device="cpu")
    write_report([tmp_path / "all.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert re.search(r"z&nbsp;\S+ of <code>[0-9a-f]{16}</code>", text)
    assert "in another volume" not in text


def test_a_hundred_volumes_stay_below_twenty_megabytes(tmp_path):
    """The worst that can be shown: noise, which no picture format shrinks."""
    rng = np.random.default_rng(0)
    counts = [24 if volume % 14 in (0, 1) or volume == 99 else 2 for volume in range(100)]
    write_store(tmp_path / "slices", [rng.integers(0, 256, (n, 160, 160), dtype=np.uint8) for n in counts])
    names = []
    with SliceStore(tmp_path / "slices") as store:
        for method in ("ssim", "hash"):
            names.append(tmp_path / f"{method}.csv")
            reduce(store, method, keep=0.6, output=names[-1], device="cpu")
        keys = [entry.key for entry in store.volumes]
    write_report(names, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert all(f'data-open="{key}"' in text for key in keys)
    assert text.count('<section class="volume">') == 8
    assert "<h2>A sample of the volumes, 8 of 100</h2>" in text
    assert len(text) < 20e6


def test_without_parts_the_curves_are_left_out(reduced, tmp_path):
    for name in ("ssim.csv", "ssim.json"):
        shutil.copy(reduced / name, tmp_path / name)
    write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", store=reduced / "slices")
    text = (tmp_path / "r.html").read_text()
    assert text.count("<svg") == 1
    assert "Choose another" not in text


def test_a_store_that_moved_is_named_with_the_remedy(reduced, tmp_path):
    for name in ("ssim.csv", "ssim.json"):
        shutil.copy(reduced / name, tmp_path / name)
    with pytest.raises(InputError, match="--store"):
        write_report([tmp_path / "ssim.csv"], tmp_path / "r.html")
    other = make_store(tmp_path / "other", (("head", 3, 40, 40),))
    with pytest.raises(InputError, match="none of its volumes is in .*Copy the first store's key"):
        write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", store=other)


def test_an_existing_report_stays(reduced, tmp_path):
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        write_report([reduced / "ssim.csv"], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "mine"
    with pytest.raises(UsageError, match=r"\.html"):
        write_report([reduced / "ssim.csv"], tmp_path / "r.pdf")


def test_the_knee_of_a_bent_line():
    curve = np.concatenate([np.linspace(1, 0.9, 50), np.linspace(0.9, 0, 21)[1:]])
    assert knee(curve) == 49
    assert knee([0.5, 0.5, 0.5]) == 0
    assert knee_left(curve, 71) == 71 - 50  # of 70 removals the fiftieth


def test_again_it_is_unchanged_until_something_is(reduced, tmp_path):
    for name in ("ssim.csv", "ssim.json"):
        shutil.copy(reduced / name, tmp_path / name)
    how = {"store": reduced / "slices"}
    assert write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", dry_run=True, **how).lines[0].startswith("plan: ")
    assert not (tmp_path / "r.html").exists()
    write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", **how)
    before = (tmp_path / "r.html").stat().st_mtime_ns
    for more in ({}, {"dry_run": True}, {"overwrite": True}):
        again = write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", **more, **how)
        assert again.lines == [f"unchanged: {tmp_path / 'r.html'}"]
    assert (tmp_path / "r.html").stat().st_mtime_ns == before
    shutil.copytree(reduced / "ssim.parts", tmp_path / "ssim.parts")  # with its curves it is another page
    with pytest.raises(UsageError, match="made otherwise"):
        write_report([tmp_path / "ssim.csv"], tmp_path / "r.html", **how)


def test_with_a_new_template_it_is_another_page(reduced, tmp_path, make_newer):
    how = {"store": reduced / "slices"}
    write_report([reduced / "ssim.csv"], tmp_path / "r.html", **how)
    make_newer("templates/selection.html")
    with pytest.raises(UsageError, match="made otherwise"):
        write_report([reduced / "ssim.csv"], tmp_path / "r.html", **how)


def test_a_table_of_something_else_is_named(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b,collection_a\n")
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(InputError, match=r"pairs\.csv: is no selection"):
        write_report([tmp_path / "pairs.csv"], tmp_path / "r.html")


def test_a_corrected_selection_names_what_it_was_corrected_from(reduced, tmp_path):
    key = Selection.load(reduced / "ssim.csv").volumes[0].key
    select_verb(reduced / "ssim.csv", [f"{key}:0-3"], [], None, tmp_path / "mine.csv", store=reduced / "slices")
    write_report([tmp_path / "mine.csv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert re.search(r"corrected from <code>\S*ssim\.csv</code>", text)


def test_a_rule_that_adds_is_named_and_a_threshold_is_offered_where_it_means_something(reduced, tmp_path):
    with SliceStore(reduced / "slices") as store:
        for rule in ("facility", "k-center"):
            reduce(store, "ssim", keep=0.3, rule=rule, output=tmp_path / f"{rule}.csv", device="cpu")
            write_report([tmp_path / f"{rule}.csv"], tmp_path / f"{rule}.html")
    facility, k_center = ((tmp_path / f"{rule}.html").read_text() for rule in ("facility", "k-center"))
    assert "ssim facility keep 0.3" in facility
    assert "ssim k-center keep 0.3: how alike the dropped slice that is covered worst is" in k_center
    assert "removal curve" in k_center
    assert "removal curve" not in facility


def test_greedy_says_that_a_kept_slice_may_be_farther_and_leader_does_not(reduced, tmp_path):
    with SliceStore(reduced / "slices") as store:
        for rule in ("greedy", "leader"):
            reduce(store, "ssim", threshold=0.5, rule=rule, output=tmp_path / f"{rule}.csv", device="cpu")
            write_report([tmp_path / f"{rule}.csv"], tmp_path / f"{rule}.html")
    found = {rule: FARTHER.strip() in (tmp_path / f"{rule}.html").read_text() for rule in ("greedy", "leader")}
    assert found == {"greedy": True, "leader": False}
