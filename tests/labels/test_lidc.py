"""Outlines of readers to masks of nodules: who agrees, what is a nodule, and where it lies."""

from __future__ import annotations

import annotations_made as made
import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.labels.lidc import Outline, enclosed, read_marks
from lim_gpu.labels.make import make_labels
from lim_gpu.labels.masks import mask_name, read_mask
from lim_gpu.labels.origins import Place


def filled(*squares):
    """(H, W): the pixels within squares of (left, top, side), their lines left out."""
    mask = np.zeros(made.SHAPE, dtype=bool)
    for left, top, side in squares:
        mask[top + 1 : top + side, left + 1 : left + side] = True
    return mask


def masks_of(scans, tmp_path, readers, patient="ann"):
    made.lidc(tmp_path / "xml/1.xml", readers)
    make_labels("lidc", tmp_path / "xml", scans.store, tmp_path / "out")
    names = {i: tmp_path / "out" / mask_name(Place(scans.keys[patient], i)) for i in range(len(scans.uids[patient]))}
    return {i: read_mask(path) for i, path in names.items() if path.exists()}


def at(scans, i, *square, patient="ann", inclusion="TRUE"):
    return made.roi(scans.uids[patient][i], 3.0 * i, made.square(*square), inclusion)


def test_what_an_outline_encloses_is_without_the_line():
    points = np.array(made.square(3, 5, 6))
    found = enclosed([Outline("", 0, True, points)], made.SHAPE)
    np.testing.assert_array_equal(found, filled((3, 5, 6)))


def test_a_hole_is_no_nodule():
    outer, hole = (np.array(made.square(*one)) for one in ((3, 5, 12), (6, 8, 4)))
    found = enclosed([Outline("", 0, False, hole), Outline("", 0, True, outer)], made.SHAPE)
    expected = filled((3, 5, 12))
    expected[8:13, 6:11] = False
    np.testing.assert_array_equal(found, expected)


def test_half_of_the_marks_of_a_nodule_make_its_mask(scans, tmp_path):
    one, other = [at(scans, 2, 5, 5, 8)], [at(scans, 2, 9, 5, 8)]
    found = masks_of(scans, tmp_path, [[one], [one], [other]])
    np.testing.assert_array_equal(found[2], filled((5, 5, 8)))  # 2 of 3; the third alone is too few
    assert set(found) == {2}


def test_of_two_marks_one_is_half(scans, tmp_path):
    found = masks_of(scans, tmp_path, [[[at(scans, 1, 5, 5, 8)]], [[at(scans, 1, 9, 5, 8)]]])
    np.testing.assert_array_equal(found[1], filled((5, 5, 8), (9, 5, 8)))


def test_marks_a_pixel_apart_are_one_nodule_and_two_pixels_apart_are_two(scans, tmp_path):
    near = [[[at(scans, 0, 4, 4, 6)]], [[at(scans, 0, 4, 4, 6)]], [[at(scans, 0, 11, 4, 6)]]]
    assert masks_of(scans, tmp_path / "near", near)[0].sum() == 25  # one of three is no half
    far = [*near[:2], [[at(scans, 0, 12, 4, 6)]]]
    assert masks_of(scans, tmp_path / "far", far)[0].sum() == 50  # a nodule of its own, which its one reader marked


def test_slices_apart_are_further_than_a_pixel(scans, tmp_path):
    """Three marks on slices 3 mm apart where pixels have 0.5 mm: three nodules."""
    found = masks_of(scans, tmp_path, [[[at(scans, i, 5, 5, 8)]] for i in (1, 2, 3)])
    assert {i: mask.sum() for i, mask in found.items()} == {1: 49, 2: 49, 3: 49}


def test_a_mark_over_slices_is_one_and_a_slice_that_few_marked_is_not_of_the_nodule(scans, tmp_path):
    long = [at(scans, i, 5, 5, 8) for i in (1, 2, 3)]
    found = masks_of(scans, tmp_path, [[long], [[at(scans, 2, 5, 5, 8)]], [[at(scans, 2, 5, 5, 8)]]])
    assert set(found) == {2}


def test_points_are_no_outlines_and_counted(scans, tmp_path):
    point = made.roi(scans.uids["ann"][3], 9.0, [(4, 4)])
    made.lidc(tmp_path / "xml/1.xml", [[[point]], [[at(scans, 1, 5, 5, 8)]]])
    outcome = make_labels("lidc", tmp_path / "xml", scans.store, tmp_path / "out")
    assert outcome.values["marked"] == 1
    assert outcome.values["counted"] == {"nodules below 3 mm": 1}


def test_a_scan_without_nodules_has_rows_that_say_so(scans, tmp_path):
    point = made.roi(scans.uids["bob"][3], 9.0, [(4, 4)])
    made.lidc(tmp_path / "xml/1.xml", [[[point]]])
    outcome = make_labels("lidc", tmp_path / "xml", scans.store, tmp_path / "out")
    assert (outcome.values["rows"], outcome.values["marked"]) == (4, 0)


def test_an_outline_on_an_unknown_image_goes_by_its_position(scans, tmp_path):
    known, unknown = at(scans, 1, 5, 5, 8), made.roi("1.2.3", 6.0, made.square(5, 5, 8))
    nowhere = made.roi("1.2.3", 7.0, made.square(5, 5, 8))
    found = masks_of(scans, tmp_path, [[[known, unknown, nowhere]]])
    assert set(found) == {1, 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<LidcReadMessage>", "no whole XML"),
        ("<IdriReadMessage/>", "LidcReadMessage"),
        ("<LidcReadMessage><unblindedReadNodule><roi/></unblindedReadNodule></LidcReadMessage>", "no points"),
        (
            "<LidcReadMessage><unblindedReadNodule><roi><imageZposition>nan</imageZposition><edgeMap><xCoord>1</xCoord>"
            "<yCoord>1</yCoord></edgeMap></roi></unblindedReadNodule></LidcReadMessage>",
            "no place",
        ),
    ],
)
def test_another_xml_is_named(tmp_path, text, reason):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_marks(str(path))
