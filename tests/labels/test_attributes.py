"""Attributes of patients: read again, binned, private; nothing of them in the store."""

from __future__ import annotations

import csv
import stat

import numpy as np
import pytest

from dicom_files import ct, save
from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.labels.attributes import decade, largest_region
from lim_gpu.labels.make import make_labels
from lim_gpu.store.slices import SliceStore


def rows(folder):
    with open(folder / "labels.csv") as file:
        return list(csv.DictReader(file))


def test_sex_age_and_race_stand_in_a_table_for_its_owner(scans, tmp_path):
    outcome = make_labels("attributes", scans.sources, scans.store, tmp_path / "out")
    found = {row["volume"]: row for row in rows(tmp_path / "out")}
    told = {patient: [found[key][name] for name in ("sex", "age", "race")] for patient, key in scans.keys.items()}
    assert told == {"ann": ["F", "30-39", ""], "bob": ["M", "0-9", "x"]}
    assert stat.S_IMODE((tmp_path / "out/labels.csv").stat().st_mode) == 0o600
    assert outcome.values["rows"] == 2
    text = (tmp_path / "out/labels.csv").read_text() + (tmp_path / "out/labels.json").read_text()
    assert "ann" not in text


def test_a_race_of_the_list_counts_before_the_tag(scans, tmp_path):
    people = tmp_path / "people.csv"
    people.write_text("PatientID,race\nann,a\nbob,b\nnobody,c\n")
    make_labels("attributes", scans.sources, scans.store, tmp_path / "out", patients=people)
    assert {row["volume"]: row["race"] for row in rows(tmp_path / "out")} == {
        scans.keys["ann"]: "a", scans.keys["bob"]: "b"
    }  # fmt: skip
    people.write_text("patient,race\nann,a\nann,b\n")
    with pytest.raises(InputError, match="line 3"):
        make_labels("attributes", scans.sources, scans.store, tmp_path / "out", patients=people, overwrite=True)


def test_volumes_of_other_files_are_counted(scans, tmp_path):
    outcome = make_labels("attributes", scans.sources / "bob", scans.store, tmp_path / "out")
    assert outcome.values["rows"] == 1
    assert list(outcome.values["counted"].values()) == [1]
    with pytest.raises(InputError, match="nothing in it belongs"):
        make_labels("attributes", tmp_path / "store", scans.store, tmp_path / "other")


def test_the_slice_is_the_widest_and_not_the_one_with_most_bright_pixels(tmp_path):
    """Slice 1 has the largest region; slice 2 more pixels above the surface, in two regions."""
    for i, blocks in enumerate(([(0, 10)], [(0, 18)], [(0, 14), (16, 30)])):
        pixels = np.full((40, 36), -1000, dtype=np.int16)
        for start, stop in blocks:
            pixels[start:stop] = 40
        save(ct(pixels, z=3.0 * i, number=i), tmp_path / f"in/{i}.dcm")
    ingest([tmp_path / "in"], tmp_path / "store", workers=1)
    make_labels("attributes", tmp_path / "in", tmp_path / "store", tmp_path / "out")
    assert rows(tmp_path / "out")[0]["slice"] == "1"


def test_an_empty_slice_has_no_region():
    assert largest_region(np.full((4, 4), -1000, dtype=np.int16)) == 0


@pytest.mark.parametrize(
    ("age", "bin_"),
    [
        ("000D", "0-9"), ("364D", "0-9"), ("520W", "0-9"), ("522W", "10-19"), ("119M", "0-9"), ("120M", "10-19"),
        ("039Y", "30-39"), ("040Y", "40-49"), ("104Y", "100-109"), ("", ""), ("39", ""), ("Y039", ""), ("39y", ""),
    ],
)  # fmt: skip
def test_ages_fall_into_decades(age, bin_):
    assert decade(age) == bin_


def test_a_missing_source_is_named_and_the_rest_goes_on(scans, tmp_path):
    for path in (scans.sources / "bob").iterdir():
        path.unlink()
    outcome = make_labels("attributes", scans.sources, scans.store, tmp_path / "out")
    assert outcome.skipped
    assert [row["sex"] for row in rows(tmp_path / "out")] == ["F"]


def test_only_attributes_know_patients_and_no_table_lies_in_the_store(scans, tmp_path):
    with pytest.raises(UsageError, match="patients"):
        make_labels("lidc", tmp_path, scans.store, tmp_path / "out", patients=tmp_path / "a.csv")
    with pytest.raises(UsageError, match="inside the store"):
        make_labels("attributes", scans.sources, scans.store, scans.store / "labels")


def test_nothing_changes_in_the_store(scans, tmp_path):
    before = {path: path.read_bytes() for path in scans.store.rglob("*") if path.is_file()}
    make_labels("attributes", scans.sources, scans.store, tmp_path / "out")
    assert {path: path.read_bytes() for path in scans.store.rglob("*") if path.is_file()} == before
    with SliceStore(scans.store) as store:
        assert {entry.name for entry in store.volumes} == {""}


def test_a_probe_reads_an_attribute_from_features_that_stay(tmp_path):
    """Eight patients whose sex is their width; the backbone's weights and statistics stay as they were."""
    torch = pytest.importorskip("torch")
    from finetunings import QUIET, read, request
    from lim_gpu.finetune.run import finetune
    from lim_gpu.weights.backbone import resnet

    for number in range(8):
        pixels = np.full((40, 40), -1000, dtype=np.int16)
        pixels[6:34, 20 - 4 - 10 * (number % 2) : 20 + 4 + 10 * (number % 2)] = 40 + number
        dataset = ct(pixels, series=f"s{number}", study=f"s{number}", patient=f"p{number}", PatientSex="FM"[number % 2])
        save(dataset, tmp_path / f"in/{number}.dcm")
    ingest([tmp_path / "in"], tmp_path / "store", workers=1)
    make_labels("attributes", tmp_path / "in", tmp_path / "store", tmp_path / "out")
    state = {f"encoder.{name}": value for name, value in resnet("resnet18").state_dict().items()}
    preprocess = {"mean": [0.18], "std": [0.19]}
    torch.save({"state_dict": state, "lim_gpu": {"preprocess": preprocess}}, tmp_path / "w.ckpt")
    probe = {"labels": tmp_path / "out/labels.csv", "target": "sex", "epochs": 12, "head_epochs": 12, "lr": 1e-2}
    own = request(tmp_path / "store", [tmp_path / "w.ckpt"], flip=False, **probe)
    finetune(own, tmp_path / "run", "cpu", QUIET)
    after = torch.load(tmp_path / "run/runs/0/candidate-0/best.ckpt")["state_dict"]
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert read(tmp_path / "run/results.json")["auc"]["mean"] == 1
