"""Procedural CT in files that other libraries read, and angiograms whose findings become tables of labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lim_gpu.ingest import ingest
from lim_gpu.labels.make import make_labels
from lim_gpu.labels.table import read_labels
from lim_gpu.phantom import DATA_SET, EMBOLI, NODULES, SCANS, angiogram, phantom, write_angiograms, write_data_set
from lim_gpu.pictures import decode_picture
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

QUIET = Reporter(quiet=True)
SHAPE = (24, 64, 64)


def test_the_data_set_is_read_by_other_libraries_and_written_once(tmp_path):
    pydicom, nibabel = pytest.importorskip("pydicom"), pytest.importorskip("nibabel")
    write_data_set(tmp_path, seed=0)
    dicoms = sorted(
        (tmp_path / "chest-a").glob("*.dcm"), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2])
    )
    first = phantom("chest", DATA_SET[0].slices, DATA_SET[0].height, DATA_SET[0].width, seed=0)
    for path, expected in list(zip(dicoms, first, strict=True))[::13]:
        ds = pydicom.dcmread(path)
        np.testing.assert_array_equal(ds.pixel_array.astype(int) * ds.RescaleSlope + ds.RescaleIntercept, expected)
    assert [p.name for p in dicoms] != sorted(p.name for p in dicoms)
    head = nibabel.load(tmp_path / "head.nii.gz")
    assert nibabel.aff2axcodes(head.affine) == ("R", "A", "S")
    png = Image.open(tmp_path / "chest-b" / "chest-b_0.png")
    assert png.mode == "L"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_data_set(tmp_path, seed=0)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.fixture(scope="module")
def angiograms(tmp_path_factory):
    """Two patients, the second with emboli, and a store of them."""
    folder = tmp_path_factory.mktemp("angiograms")
    write_angiograms(folder / "sources", 5, 2, SHAPE)
    ingest([folder / "sources" / SCANS], folder / "slices", keep_identifiers=True, workers=1)
    return folder


@pytest.mark.parametrize("finding", [EMBOLI, NODULES])
def test_the_findings_of_angiograms_are_labels_and_masks_of_their_slices(angiograms, finding):
    made = [angiogram(*SHAPE, seed=5 + number, emboli=3 * number) for number in (0, 1)]
    own = angiograms / finding
    make_labels("nifti", angiograms / "sources" / finding, angiograms / "slices", own, reporter=QUIET)
    labels = read_labels(own / "labels.csv", angiograms / "slices", None, QUIET)
    masks = read_labels(own / "labels.csv", angiograms / "slices", None, QUIET, masks=True)
    with SliceStore(angiograms / "slices") as store:
        numbers = {key: int("patient-1" in store[key].entry.name) for key in (v.key for v in store.volumes)}
        for key, number in numbers.items():
            np.testing.assert_array_equal(store[key].read(), made[number].hu)
    assert sorted(numbers.values()) == [0, 1]
    assert len(labels.places) == 2 * SHAPE[0]
    for i, place in enumerate(labels.places):
        expected = getattr(made[numbers[place.volume]], finding)[place.slice]
        assert labels.classes[labels.labels[i]] == str(int(expected.any()))
        path = masks.mask_path(i)
        found = decode_picture(path)[0] if path else np.zeros(SHAPE[1:])
        np.testing.assert_array_equal(found, expected)


def test_angiograms_are_written_once(angiograms):
    before = {path: path.stat().st_mtime_ns for path in (angiograms / "sources").rglob("*")}
    write_angiograms(angiograms / "sources", 5, 2, SHAPE)
    assert before == {path: path.stat().st_mtime_ns for path in (angiograms / "sources").rglob("*")}
