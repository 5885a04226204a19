"""The walk: what is entered, passed by and named, in which order."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")

import nibabel as nib

from dicom_files import ct, save, series, stored_slice
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.ingest.packed import PackedList
from lim_gpu.ingest.records import Counted, Found, Scanned
from lim_gpu.ingest.scan import CHUNK, read_headers, walk
from lim_gpu.progress import Reporter
from lim_gpu.workers import TaskResult


def names(*sources, leave_out=()):
    return [found.name for found in walk(sources, leave_out).files]


def test_the_walk_is_deep_natural_and_names_files_below_the_source(tmp_path):
    for name in ("b/10", "b/9", "a/x/1", "a/2", "c"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("")
    expected = ["data/a/2", "data/a/x/1", "data/b/9", "data/b/10", "data/c"]
    assert names(tmp_path / "data") == expected
    assert names(tmp_path / "data", tmp_path / "data" / "b") == expected  # nothing twice
    assert names(tmp_path / "data" / "b" / "9") == ["9"]
    (tmp_path / "data-2").mkdir()  # between the two where names are sorted as texts
    twice = [tmp_path / "data" / "b", tmp_path / "data-2", tmp_path / "data", tmp_path / "data" / "b"]
    assert names(*twice) == ["b/9", "b/10", "data/a/2", "data/a/x/1", "data/c"]
    assert [found.order for found in walk([tmp_path / "data"], []).files] == [0, 1, 2, 3, 4]


def test_a_relative_source_has_the_name_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1").write_text("")
    monkeypatch.chdir(tmp_path / "data")
    assert names(".") == ["data/1"]


def test_relative_paths_are_those_of_the_moment(tmp_path, monkeypatch):
    """The fork server, and so its children, keep the working directory in which they were started."""
    for name in ("a", "b"):
        series(tmp_path / name / "in", 2)
        monkeypatch.chdir(tmp_path / name)
        report = ingest("in", "out", workers=1)
        assert (report.written, report.store) == (1, Path("out"))
        assert len(list((tmp_path / name / "out" / "volumes").glob("*.h5"))) == 1


def test_equal_names_below_two_sources_are_two_volumes(tmp_path, run):
    for i in range(2):
        image = nib.Nifti1Image(np.full((3, 3, 3), i, np.int16), np.eye(4))
        (tmp_path / str(i) / "data").mkdir(parents=True)
        nib.save(image, tmp_path / str(i) / "data" / "a.nii")
    volumes = run(tmp_path / "0" / "data", tmp_path / "1" / "data", keep_identifiers=True).volumes
    assert len({volume.key for volume in volumes}) == 2
    assert [int(volume.read().max()) for volume in volumes] == [0, 1]


def test_very_deep_folders(tmp_path):
    path = tmp_path
    for _ in range(200):
        path = path / "d"
        path.mkdir()
    (path / "f").write_text("")
    assert len(names(tmp_path / "d")) == 1


def test_links_and_special_files_are_counted_and_never_opened(tmp_path):
    outside = tmp_path / "outside"
    series(outside, 2)
    inside = tmp_path / "in"
    series(inside, 2)
    (inside / "link").symlink_to(outside)
    (inside / "link.dcm").symlink_to(outside / "slice1.dcm")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    (inside / ".hidden").mkdir()
    (inside / "._slice.png").write_text("AppleDouble")
    walked = walk([inside], [])
    assert len(walked.files) == 2
    assert walked.counted == {"symbolic link": 3, "special file": 1, "hidden": 2}
    assert walked.examples.keys() == walked.counted.keys()
    assert walked.examples["special file"] == str(inside / "pipe")


def test_a_source_that_is_a_link_is_followed_for_it_was_asked_for(tmp_path):
    series(tmp_path / "data", 2)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert names(tmp_path / "link") == ["link/slice1.dcm", "link/slice2.dcm"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "closed").chmod(0)
    assert [failure.path for failure in walk([tmp_path / "in"], []).failures] == [str(tmp_path / "in" / "closed")]


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="nothing: does not exist"):
        ingest([tmp_path / "nothing"], tmp_path / "out")


def test_the_store_may_lie_inside_the_source(tmp_path):
    series(tmp_path / "data", 3)
    for _ in range(2):
        report = ingest([tmp_path / "data"], tmp_path / "data" / "slices", workers=1)
        assert (report.counted, report.slices) == ({}, 3)
    assert report.unchanged


def test_a_name_with_control_characters_stays_one_line(tmp_path, capfd):
    bad = tmp_path / "in" / "a\x1b[31m\nforged: line.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no picture")
    save(ct(stored_slice(1)), tmp_path / "in" / "good")
    ingest([tmp_path / "in"], tmp_path / "out", workers=1, reporter=Reporter())
    (line,) = capfd.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert line.endswith("forged: line.png: damaged picture: neither PNG nor JPEG inside")


def test_a_name_that_is_no_text(tmp_path, run):
    path = os.fsencode(tmp_path) + b"/in/\xff\xfe"
    os.makedirs(path)
    data = save(ct(stored_slice(1)), tmp_path / "a").read_bytes()
    with open(path + b"/\xe9.dcm", "wb") as file:
        file.write(data)
    assert run(keep_identifiers=True).only.entry.shape[0] == 1


def test_a_file_that_kills_its_reader_is_scanned_alone_and_named():
    files = [Found(f"/x/{i}", f"{i}", i, 0, 0) for i in range(70)]

    def children(function, tasks, **options):
        for number, (chunk, *_) in enumerate(tasks):
            if any(found.order == 40 for found in chunk):
                yield TaskResult(number, error="the child process crashed (SIGSEGV)")
            else:
                yield TaskResult(number, [Scanned(found, Counted("ok")) for found in chunk])

    steps = []
    scanned = list(read_headers(PackedList(CHUNK, files), "CT", False, 1, steps.append, children))
    assert sum(steps) == 70
    assert [result.found for result in scanned] == files
    assert [str(r.content) for r in scanned if not isinstance(r.content, Counted)] == [
        "cannot be read: the child process crashed (SIGSEGV)"
    ]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"modality": "XX"}, "--modality XX: unknown"),
        ({"compression": "rar"}, "--compression rar: unknown"),
        ({"patient_pattern": "("}, "missing ), unterminated subpattern"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_a_wrong_call_is_refused_before_any_work(tmp_path, options, cause):
    with pytest.raises(UsageError, match=re.escape(cause)):
        ingest([tmp_path], tmp_path / "out", **options)
    with pytest.raises(UsageError, match="no source"):
        ingest([], tmp_path / "out")


def test_an_output_that_is_something_else_is_refused(tmp_path):
    series(tmp_path / "in", 1)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name, cause in (("file", "is a file"), ("folder", "holds other files")):
        with pytest.raises(UsageError, match=cause):
            ingest([tmp_path / "in"], tmp_path / name, overwrite=True)
    assert Path(tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "folder.private").exists()


def test_an_output_that_cannot_be_made(tmp_path):
    series(tmp_path / "in", 1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LimGpuError, match=r"file/out: cannot be written: .*/file is no folder. Choose another place"):
        ingest([tmp_path / "in"], tmp_path / "file" / "out", workers=1)


def test_a_tree_of_junk_is_one_line_with_the_counts(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.txt").write_text("junk")
    save(ct(stored_slice(1), Modality="MR"), tmp_path / "in" / "mr")
    counts = r"1 MR: .*/mr, 3 not an image such as .*/0\.txt"
    with pytest.raises(InputError, match=rf"in: no volume in it \({counts}\)\. Give .* another --modality$"):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)


def test_what_is_given_twice_or_within_another_is_said_in_one_line(tmp_path, capsys):
    series(tmp_path / "data" / "a", 3)
    (tmp_path / "data-2").mkdir()  # no part of data
    (tmp_path / "data-2" / "x").write_text("")
    data, inner, other = tmp_path / "data", tmp_path / "data" / "a", tmp_path / "data-2"
    for sources, said in (
        ([data, other], None),
        ([data, data], f"{data}: given twice, read once"),
        ([inner, other, data], f"{inner}: lies in {data}, read once"),
        ([data, inner, data], f"{data}: given twice, read once, and 1 more like it"),
    ):
        report = ingest(sources, tmp_path / "out", workers=1, dry_run=True, reporter=Reporter())
        assert report.slices == 3
        assert capsys.readouterr().err == (f"warning: {said}\n" if said else "")


def test_a_store_that_stands_among_the_sources_is_named(tmp_path):
    series(tmp_path / "data", 3)
    ingest([tmp_path / "data"], tmp_path / "out", workers=1)
    with pytest.raises(InputError, match=r"out: is a store, not images\. Leave it out, or give it as -o "):
        ingest([tmp_path / "data", tmp_path / "out"], tmp_path / "out", workers=1)
