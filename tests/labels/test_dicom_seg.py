"""DICOM Segmentation objects to masks of a store's slices."""

from __future__ import annotations

import annotations_made as made
import numpy as np
import pytest
from PIL import Image

from dicom_files import ct, enhanced, save, stored_slice
from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.ingest.records import SourceError
from lim_gpu.labels.dicom_seg import read_segments
from lim_gpu.labels.make import make_labels
from lim_gpu.labels.masks import mask_name
from lim_gpu.labels.origins import Place
from lim_gpu.store.slices import SliceStore


def noise(seed):
    return np.random.default_rng(seed).random(made.SHAPE) > 0.7


def read(folder, key, i):
    return np.asarray(Image.open(folder / mask_name(Place(key, i))))


def test_frames_lie_on_the_slices_that_they_name(scans, tmp_path):
    uids = scans.uids["ann"]
    frames = [(uids[i], 1, noise(i)) for i in (4, 1, 2)]  # in no order
    made.segmentation(tmp_path / "seg/a.dcm", [*frames, ("1.2.3", 1, noise(9))])
    save(ct(stored_slice(1)), tmp_path / "seg/no-seg.dcm")
    (tmp_path / "seg/text").write_text("no DICOM")
    outcome = make_labels("dicom-seg", tmp_path / "seg", scans.store, tmp_path / "out")
    assert (outcome.values["rows"], outcome.values["marked"], outcome.skipped) == (6, 3, False)
    assert outcome.values["counted"] == {
        "frames on images that are not in the store": 1, "files that are no segmentation": 2
    }  # fmt: skip
    for i in (1, 2, 4):
        np.testing.assert_array_equal(read(tmp_path / "out", scans.keys["ann"], i), noise(i))


def test_segments_are_numbered_and_the_highest_counts_where_they_meet(scans, tmp_path):
    uid = scans.uids["ann"][3]
    for order in ([3, 7], [7, 3]):
        masks = read_segments(
            str(made.segmentation(tmp_path / "a.dcm", [(uid, number, noise(number)) for number in order]))
        )
        expected = np.maximum(3 * noise(3), 7 * noise(7))
        np.testing.assert_array_equal(masks[uid, None], expected)
    made.segmentation(tmp_path / "two/a.dcm", [(uid, 3, noise(3))])
    made.segmentation(tmp_path / "two/b.dcm", [(uid, 7, noise(7))])
    make_labels("dicom-seg", tmp_path / "two", scans.store, tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out", scans.keys["ann"], 3), expected)


def test_fractions_count_from_one_half_and_a_label_map_as_it_is(tmp_path):
    values = np.arange(made.SHAPE[0] * made.SHAPE[1]).reshape(made.SHAPE) % 201
    masks = read_segments(str(made.segmentation(tmp_path / "a", [("1", 5, values)], kind="FRACTIONAL", most=200)))
    np.testing.assert_array_equal(masks["1", None], 5 * (values >= 100))
    masks = read_segments(str(made.segmentation(tmp_path / "b", [("1", 5, values)], kind="LABELMAP")))
    np.testing.assert_array_equal(masks["1", None], values)


def test_frames_of_a_multiframe_image_are_told_apart(tmp_path):
    stored = np.stack([stored_slice(i, made.SHAPE) for i in range(3)])
    dataset = enhanced(stored, z=[0, 3, 6])
    save(dataset, tmp_path / "in/a.dcm")
    ingest([tmp_path / "in"], tmp_path / "store", workers=1)
    source = {"ReferencedSOPInstanceUID": dataset.SOPInstanceUID, "ReferencedFrameNumber": 3}
    made.segmentation(tmp_path / "seg/a.dcm", [(source, 1, noise(1))])
    make_labels("dicom-seg", tmp_path / "seg", tmp_path / "store", tmp_path / "out")
    key = SliceStore(tmp_path / "store").volumes[0].key
    np.testing.assert_array_equal(read(tmp_path / "out", key, 2), noise(1))
    assert not (tmp_path / "out" / mask_name(Place(key, 0))).exists()


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(scans, tmp_path):
    uid = scans.uids["ann"][0]
    made.segmentation(tmp_path / "seg/good.dcm", [(uid, 1, noise(1))])
    made.segmentation(tmp_path / "seg/small.dcm", [(uid, 1, noise(1)[1:])])
    made.segmentation(tmp_path / "seg/many.dcm", [(uid, 300, noise(1))])
    cut = made.segmentation(tmp_path / "seg/cut.dcm", [(uid, 1, noise(1))])
    cut.write_bytes(cut.read_bytes()[:-60])
    outcome = make_labels("dicom-seg", tmp_path / "seg", scans.store, tmp_path / "out")
    assert outcome.skipped
    causes = "\n".join(outcome.values["failures"])
    assert "small.dcm: its frames are 40 x 37, the slices 41 x 37" in causes
    assert "many.dcm: too many segments" in causes
    assert "cut.dcm: damaged segmentation" in causes
    assert outcome.values["marked"] == 1


def test_a_frame_that_names_no_slice_is_an_error_that_quotes_nothing(tmp_path):
    path = made.segmentation(
        tmp_path / "a.dcm", [("1.2.3", 1, noise(1))], PerFrameFunctionalGroupsSequence=[made.item()]
    )
    with pytest.raises(SourceError, match="no slice: a frame refers to 0 images"):
        read_segments(str(path))


def test_nothing_of_the_store_is_an_error(scans, tmp_path):
    made.segmentation(tmp_path / "seg/a.dcm", [("1.2.3", 1, noise(1))])
    with pytest.raises(InputError, match="nothing in it belongs .*1 frames on images that are not in the store"):
        make_labels("dicom-seg", tmp_path / "seg", scans.store, tmp_path / "out")


def test_the_segmentation_of_a_real_series(real_ct, tmp_path):
    """Its README: two segments of 29 frames each on 40 levels."""
    ingest([real_ct / "headneck-ge"], tmp_path / "store")
    outcome = make_labels("dicom-seg", real_ct / "headneck-ge-seg", tmp_path / "store", tmp_path / "out")
    assert (outcome.values["rows"], outcome.values["marked"], outcome.values["counted"]) == (135, 40, {})
    with SliceStore(tmp_path / "store") as store:
        key, z = store.volumes[0].key, store[0].z
    marked = [i for i in range(135) if (tmp_path / "out" / mask_name(Place(key, i))).exists()]
    assert (z[marked].min(), z[marked].max()) == pytest.approx((-249.0, -121.47), abs=0.01)
    assert set(np.unique(read(tmp_path / "out", key, marked[20]))) <= {0, 1, 2}
