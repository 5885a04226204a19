"""Labels tables over a store: what names a slice, what counts, what is refused; RSNA's list as it is."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.labels.origins import Place
from lim_gpu.labels.table import read_labels
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

QUIET = Reporter(quiet=True)
RSNA = (  # the columns of RSNA's pulmonary embolism challenge, in its order
    "StudyInstanceUID SeriesInstanceUID SOPInstanceUID pe_present_on_image negative_exam_for_pe qa_motion qa_contrast "
    "flow_artifact rv_lv_ratio_gte_1 rv_lv_ratio_lt_1 leftsided_pe chronic_pe true_filling_defect_not_pe rightsided_pe "
    "acute_and_chronic_pe central_pe indeterminate"
).split()


@pytest.fixture
def write(tmp_path):
    def function(*lines, name="table.csv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return function


@pytest.fixture
def rsna(scans, tmp_path):
    """train.csv: every slice of both, positive from slice 2 on, and images of another study."""
    with open(tmp_path / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, RSNA, restval=0)
        writer.writeheader()
        for patient, uids in scans.uids.items():
            for i, uid in enumerate(reversed(uids)):
                positive = int(len(uids) - 1 - i >= 2)
                row = {"StudyInstanceUID": f"study-{patient}", "SOPInstanceUID": uid, "pe_present_on_image": positive}
                writer.writerow(row)
        writer.writerow({"StudyInstanceUID": "other", "SOPInstanceUID": "1.2.3", "pe_present_on_image": 1})
    return tmp_path / "train.csv"


def test_the_list_of_rsna_is_read_as_it_is(scans, rsna, capsys):
    table = read_labels(rsna, scans.store, "pe_present_on_image", Reporter())
    assert "1 of 11 rows are of images that are not in" in capsys.readouterr().err
    assert table.classes == ("0", "1")
    assert len(table) == 10
    for place, label, patient in zip(table.places, table.labels, table.patients, strict=True):
        assert label == int(place.slice >= 2)
        assert patient == f"study-{'ann' if place.volume == scans.keys['ann'] else 'bob'}"
    assert table.split is None


def test_rows_name_slices_by_place_and_patients_are_the_stores(scans, write):
    ann, bob = scans.keys["ann"], scans.keys["bob"]
    path = write("volume,slice,finding", f"{ann},5,a", f"{bob},0,b", f"{ann},1,a", f"{ann},2,")
    table = read_labels(path, scans.store, "finding", QUIET)
    assert table.places == (Place(ann, 5), Place(bob, 0), Place(ann, 1))  # a row without a label is left out
    assert table.labels.tolist() == [0, 1, 0]
    with SliceStore(scans.store) as store:
        assert table.patients == tuple(store[place.volume].entry.patient for place in table.places)


def test_a_target_may_be_called_as_a_label_is(scans, write):
    key = scans.keys["ann"]
    path = write("volume,slice,class", f"{key},0,x", f"{key},1,y")
    for target in (None, "class", "label"):
        assert read_labels(path, scans.store, target, QUIET).classes == ("x", "y")


def test_the_parts_and_the_patients_of_the_table_count(scans, write):
    ann, bob = scans.keys["ann"], scans.keys["bob"]
    lines = ["volume,slice,label,split,patient"]
    lines += [f"{key},{i},{i % 2},{part},{key[:4]}" for key, part in ((ann, "train"), (bob, "test")) for i in range(2)]
    table = read_labels(write(*lines), scans.store, None, QUIET)
    assert table.split.tolist() == [0, 0, 2, 2]
    assert set(table.patients) == {ann[:4], bob[:4]}


def test_the_fingerprint_changes_with_a_volume_a_label_and_a_mask(scans, write, tmp_path):
    key = scans.keys["ann"]
    first = read_labels(write("volume,slice,label", f"{key},0,a", f"{key},1,b"), scans.store, None, QUIET)
    other = read_labels(write("volume,slice,label", f"{key},0,b", f"{key},1,a"), scans.store, None, QUIET)
    assert first.fingerprint() != other.fingerprint()
    assert first.digests[0] != first.digests[1]
    path = write("volume,slice,mask", f"{key},0,m.png", f"{key},1,")
    (tmp_path / "m.png").write_bytes(b"one")
    before = read_labels(path, scans.store, None, QUIET, masks=True)
    assert (before.mask_path(0), before.mask_path(1)) == (tmp_path / "m.png", None)
    one = before.fingerprint()
    (tmp_path / "m.png").write_bytes(b"two")
    assert read_labels(path, scans.store, None, QUIET, masks=True).fingerprint() != one


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["file,label", "a.png,1"], "names no slice. Add the columns volume,slice, or sop_uid"),
        (["volume,slice,finding", "KEY,0,a"], "has no column label. Give one of volume, slice, finding"),
        (["volume,slice,label", "0000000000000000,0,a"], "line 2: .* has no volume 0000000000000000"),
        (["volume,slice,label", "KEY,0,a", "KEY,6,b"], "line 3: slice '6' of KEY, which has 0 to 5"),
        (["volume,slice,label", "KEY,-1,a"], "line 2: slice '-1'"),
        (["volume,slice,label", "KEY,0,a", "KEY,00,b"], "lines 2 and 3 are of one slice"),
        (["volume,slice,label", "KEY,0,"], r"labels no slice of .* \(1 rows\)"),
        (["sop_uid,label", "1.2.3,a"], "labels no slice"),
        (["volume,slice,label", "KEY,0,a", "KEY,1,a"], "one class only: a"),
        (["volume,slice,label,split", "KEY,0,a,then", "KEY,1,b,train"], "line 2: split 'then' is unknown"),
        (["volume,slice,label,patient", "KEY,0,a,"], "line 2 has no patient"),
        (["volume,slice,label", "KEY,0,a,b"], "line 2 has too many columns"),
    ],
)
def test_what_cannot_be_meant_is_refused(scans, write, lines, reason):
    key = scans.keys["ann"]
    path = write(*(line.replace("KEY", key) for line in lines))
    with pytest.raises(InputError, match=reason.replace("KEY", key)):
        read_labels(path, scans.store, None, QUIET)


def test_a_table_of_another_store_is_refused(scans, write, tmp_path):
    key = scans.keys["ann"]
    (tmp_path / "t").mkdir()
    path = write("volume,slice,label", f"{key},0,a", f"{key},1,b", name="t/labels.csv")
    record = {"format": "lim-gpu-labels", "store": SliceStore(scans.store).fingerprint}
    (tmp_path / "t/labels.json").write_text(json.dumps(record))
    assert len(read_labels(path, scans.store, None, QUIET)) == 2
    (tmp_path / "t/labels.json").write_text(json.dumps(record | {"store": "f" * 64}))
    with pytest.raises(InputError, match="over another store"):
        read_labels(path, scans.store, None, QUIET)


def test_slices_become_images_with_their_neighbours(scans, rsna):
    pytest.importorskip("torch")
    from lim_gpu.intensity import Intensity
    from lim_gpu.labels.images import load_slices

    table = read_labels(rsna, scans.store, "pe_present_on_image", QUIET)
    intensity = Intensity.parse(hu_range="-1000:500")
    alone = load_slices(table, 41, "bilinear", intensity, 0, QUIET)
    near = load_slices(table, 41, "bilinear", intensity, 1, QUIET)
    assert (alone.pixels.shape[1], near.pixels.shape[1]) == (1, 3)
    at = {place: n for n, place in enumerate(table.places)}
    for key, count in ((scans.keys["ann"], 6), (scans.keys["bob"], 4)):
        for i in range(count):
            own = near.pixels[at[Place(key, i)]]
            for channel, other in enumerate((max(i - 1, 0), i, min(i + 1, count - 1))):
                np.testing.assert_array_equal(own[channel], alone.pixels[at[Place(key, other)], 0])
    with SliceStore(scans.store) as store:
        stored = store[table.places[0].volume].read_slice(table.places[0].slice)[None]
    expected = load_resized(intensity.to_uint8(stored))
    np.testing.assert_array_equal(alone.pixels[0, 0], expected)


def load_resized(grey):
    import torch

    from lim_gpu.labelled.images import resized

    return resized(torch.from_numpy(grey)[None], 41, "bilinear")[0, 0]
