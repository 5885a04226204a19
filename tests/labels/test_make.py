"""The verb: its outputs stand, are refused, or made anew; and its exit code."""

from __future__ import annotations

import csv
import json

import annotations_made as made
import pytest
from click.testing import CliRunner

from lim_gpu.cli import cli
from lim_gpu.errors import UsageError
from lim_gpu.labels.make import make_labels


@pytest.fixture
def xml(scans, tmp_path):
    rois = [made.roi(scans.uids["ann"][2], 6.0, made.square(5, 5, 8))]
    return made.lidc(tmp_path / "xml/1.xml", [[rois]]).parent


def test_the_table_has_a_row_a_slice_of_what_is_annotated(scans, xml, tmp_path):
    outcome = make_labels("lidc", xml, scans.store, tmp_path / "out")
    with open(tmp_path / "out/labels.csv") as file:
        rows = list(csv.DictReader(file))
    key = scans.keys["ann"]
    assert [(row["volume"], row["slice"], row["label"]) for row in rows] == [
        (key, str(i), str(int(i == 2))) for i in range(6)
    ]
    assert [row["mask"] for row in rows if row["mask"]] == [f"masks/{key}/0002.png"]
    assert (tmp_path / "out" / rows[2]["mask"]).is_file()
    assert outcome.lines[0] == f"6 rows of 1 volume, 1 marked -> {tmp_path / 'out/labels.csv'}"


def test_what_stands_is_unchanged_and_another_is_refused(scans, xml, tmp_path):
    make_labels("lidc", xml, scans.store, tmp_path / "out")
    assert make_labels("lidc", xml, scans.store, tmp_path / "out").values["unchanged"]
    rois = [made.roi(scans.uids["ann"][4], 12.0, made.square(5, 5, 8))]
    made.lidc(xml / "1.xml", [[rois], [rois]])
    with pytest.raises(UsageError, match="--overwrite"):
        make_labels("lidc", xml, scans.store, tmp_path / "out")
    make_labels("lidc", xml, scans.store, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out/masks").rglob("*.png")] == ["0004.png"]


def test_a_dry_run_counts_and_writes_nothing(scans, xml, tmp_path):
    outcome = make_labels("lidc", xml, scans.store, tmp_path / "out", dry_run=True)
    assert (outcome.values["marked"], outcome.values["dry_run"]) == (1, True)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_left_alone(scans, xml, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("")
    with pytest.raises(UsageError, match="thesis"):
        make_labels("lidc", xml, scans.store, tmp_path / "out")


def test_an_interrupted_run_is_in_nobodys_way(scans, xml, tmp_path, monkeypatch):
    monkeypatch.setattr("lim_gpu.labels.make._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_labels("lidc", xml, scans.store, tmp_path / "out")
    monkeypatch.undo()
    assert make_labels("lidc", xml, scans.store, tmp_path / "out").values["marked"] == 1


def test_the_verb_ends_with_5_where_a_file_is_skipped_and_again(scans, xml, tmp_path):
    (xml / "2.xml").write_text("<broken")
    call = ["labels", "lidc", str(xml), str(scans.store), "-o", str(tmp_path / "out"), "--json"]
    for unchanged in (False, True):
        result = CliRunner().invoke(cli, call)
        assert result.exit_code == 5
        assert json.loads(result.stdout)["unchanged"] is unchanged
    failures = json.loads((tmp_path / "out/labels.json").read_text())["failures"]
    assert failures == 1
