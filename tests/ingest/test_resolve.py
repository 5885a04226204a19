"""One slice at each place, and stacks apart that lie between each other's slices."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom.uid import RLELossless

from dicom_files import ct, enhanced, item, save, series, stored_slice, uid
from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.store.private import read_sources


def test_identical_duplicates_are_dropped_and_counted(tmp_path, run):
    stored = series(tmp_path / "in", 4)
    save(ct(stored[1], z=3.0, number=77), tmp_path / "in" / "again.dcm", RLELossless)  # other bytes, same pixels
    result = run()
    np.testing.assert_array_equal(result.only.read(), stored)
    assert result.only.header.defects == {"duplicates": 1}
    assert [text for _, text in result.report.defects] == ["duplicated slices dropped: 1"]


@pytest.mark.parametrize("element", ["AcquisitionNumber", "TemporalPositionIdentifier", "ConvolutionKernel"])
def test_different_slices_at_one_position_are_split_by_the_header(tmp_path, run, element):
    values = ("A", "B") if element == "ConvolutionKernel" else (1, 2)
    for run_number, value in enumerate(values):
        for i in range(3):
            name = f"{run_number}{i}"
            pixels = stored_slice(10 * run_number + i)
            save(ct(pixels, z=3.0 * i, number=int(name) + 1, **{element: value}), tmp_path / "in" / name)
    volumes = run().volumes
    assert len(volumes) == 2
    for run_number, volume in enumerate(volumes):
        np.testing.assert_array_equal(volume.read(), [stored_slice(10 * run_number + i) for i in range(3)])


def test_two_elements_together_may_be_needed(tmp_path, run):
    for number in range(8):
        phase, echo, i = number // 4, number // 2 % 2, number % 2
        dataset = ct(stored_slice(number), z=3.0 * i, number=number, AcquisitionNumber=phase, EchoNumbers=echo)
        save(dataset, tmp_path / "in" / str(number))
    assert [volume.entry.shape[0] for volume in run().volumes] == [2, 2, 2, 2]


def test_acquisition_numbers_that_change_from_slice_to_slice_do_not_split_a_volume(tmp_path, run):
    for i in range(4):
        save(ct(stored_slice(i), z=3.0 * i, AcquisitionNumber=i), tmp_path / "in" / str(i))
    assert run().only.entry.shape[0] == 4


def test_different_slices_at_one_position_that_nothing_tells_apart_fail_by_name(tmp_path, run):
    stored = series(tmp_path / "in" / "bad", 3)
    save(ct(stored[1] + 1, z=3.0, number=9), tmp_path / "in" / "bad" / "other.dcm")
    series(tmp_path / "in" / "good", 2, series="good")
    report = run().report
    assert report.written == 1
    (failure,) = report.failures
    assert failure.cause == (
        "different slices at one position: 2 at 3.000 mm, other.dcm and slice2.dcm. Give only one of them as input "
        "(4 slices; --skip-bad-slices takes the volume without)"
    )
    assert failure.path == str(tmp_path / "in" / "bad" / "other.dcm")


def test_a_repeated_slice_costs_itself_alone(tmp_path, run):
    stored = series(tmp_path / "in", 7, names=[f"{i}" for i in range(7)])
    save(ct(stored[1] + 1, z=3.0, number=9), tmp_path / "in" / "other")
    for _ in range(2):  # the second finds the volume and says the same
        result = run(skip_bad_slices=True)
        np.testing.assert_array_equal(result.only.read(), stored)
        lost = {"cause": "different slices at one position", "count": 1}
        assert result.only.header.defects == {"skipped_slices": [lost]}
        (failure,) = result.report.failures
        assert failure.path == str(tmp_path / "in" / "other")
        assert "2 at 3.000 mm, 1 and other" in failure.cause
        assert failure.cause.endswith("(1 bad of 8 files, skipped)")


@pytest.mark.parametrize("element", ["AcquisitionNumber", "TriggerTime"])
def test_a_number_a_slice_makes_no_volumes_of_one_slice(tmp_path, element):
    stored = series(tmp_path / "in", 6, names=[f"{i}.dcm" for i in range(6)])
    for i, pixels in enumerate([*stored, stored[2] + 1]):
        z = 3.0 * (i if i < 6 else 2)
        save(ct(pixels, z=z, number=i, **{element: str(7 * i)}), tmp_path / "in" / f"{i}.dcm")
    with pytest.raises(InputError):
        ingest([tmp_path / "in"], tmp_path / "out", workers=1)
    report = ingest([tmp_path / "in"], tmp_path / "out", workers=1, skip_bad_slices=True)
    assert (report.written, report.slices, len(report.failures)) == (1, 6, 1)


def test_a_slice_repeated_in_an_acquisition_of_its_own_is_set_apart(tmp_path, run):
    stored = series(tmp_path / "in", 5, AcquisitionNumber=1)
    save(ct(stored[1] + 1, z=3.0, number=9, AcquisitionNumber=2), tmp_path / "in" / "other")
    assert sorted(volume.entry.shape[0] for volume in run().volumes) == [1, 5]


def test_time_points_of_one_place_are_volumes_of_one_slice(tmp_path, run):
    for i in range(4):
        save(ct(stored_slice(i), number=i, AcquisitionNumber=i), tmp_path / "in" / str(i))
    assert [volume.entry.shape[0] for volume in run().volumes] == [1] * 4


def test_two_phases_that_nothing_tells_apart_are_no_volume_with_bad_slices(tmp_path):
    for i in range(8):
        save(ct(stored_slice(i), z=3.0 * (i % 4), number=i, TriggerTime=str(13 * i)), tmp_path / "in" / str(i))
    for skip in (False, True):
        with pytest.raises(InputError, match="no volume in it"):
            ingest([tmp_path / "in"], tmp_path / "out", workers=1, skip_bad_slices=skip)


WOVEN = {
    "half a step": (2, 2.5, {"AcquisitionNumber": (1, 2)}),
    "0.7 mm": (2, 0.7, {"AcquisitionNumber": (1, 2)}),
    "a third of a step": (3, 5 / 3, {"TemporalPositionIdentifier": (1, 2, 3)}),
    "kernels": (2, 2.5, {"ConvolutionKernel": ("B30f", "B70f")}),
    "echoes, each with a number a slice": (2, 2.5, {"EchoNumbers": (1, 2), "TriggerTime": None}),
    "the last slices": (2, 5.0 * 5 + 2, {"AcquisitionNumber": (1, 2)}),
}


@pytest.mark.parametrize("name", WOVEN)
def test_stacks_between_each_others_slices_are_set_apart(tmp_path, run, name):
    count, offset, elements = WOVEN[name]
    for part in range(count):
        for i in range(7):
            number = 10 * part + i
            values = {key: str(31 * number) if given is None else given[part] for key, given in elements.items()}
            dataset = ct(stored_slice(number), z=5.0 * i + part * offset, number=number, **values)
            save(dataset, tmp_path / "in" / f"{number}")
    result = run()
    assert [volume.entry.shape[0] for volume in result.volumes] == [7] * count
    for part, volume in enumerate(result.volumes):
        np.testing.assert_array_equal(volume.read(), [stored_slice(10 * part + i) for i in range(7)])
        assert volume.header.defects == {"set_apart": [next(iter(elements))]}
    said = f"overlaps slices of another {next(iter(elements))}, which are a volume of their own"
    assert {text for _, text in result.report.defects} == {said}


ONE_STACK = {
    "a number a slice": [{"AcquisitionNumber": i} for i in range(12)],
    "a number a rotation": [{"AcquisitionNumber": i // 4} for i in range(12)],
    "one after the other": [{"ConvolutionKernel": "AB"[i // 6]} for i in range(12)],
    "heart beats that come again": [{"TemporalPositionIdentifier": (1, 2, 1, 3)[i // 3]} for i in range(12)],
    "no pattern": [{"AcquisitionNumber": (1, 1, 2, 1, 2, 2, 2, 1, 1, 1, 2, 1)[i]} for i in range(12)],
    "odd and even trigger times": [{"TriggerTime": str(600 + i % 2)} for i in range(12)],
}


@pytest.mark.parametrize("name", ONE_STACK)
def test_numbers_that_make_no_stacks_of_their_own_leave_one_volume(tmp_path, run, name):
    for i, elements in enumerate(ONE_STACK[name]):
        save(ct(stored_slice(i), z=3.0 * i, number=i, **elements), tmp_path / "in" / str(i))
    assert (run().only.entry.shape[0], run().only.header.defects) == (12, {})


def test_a_slice_of_another_kernel_in_a_stack_is_said(tmp_path, run):
    for i in range(8):
        kernel = "B70f" if i == 3 else "B30f"
        save(ct(stored_slice(i), z=3.0 * i, number=i, ConvolutionKernel=kernel), tmp_path / "in" / str(i))
    result = run()
    assert result.only.header.defects == {"mixed": ["ConvolutionKernel"]}
    assert [text for _, text in result.report.defects] == [
        "slices of different ConvolutionKernel lie between each other"
    ]


@pytest.mark.parametrize("kind", ["position", "direction", "spacing"])
def test_an_instance_twice_is_one_slice_whatever_the_copy_rounded(tmp_path, run, kind):
    cosine, sine = math.cos(0.2617), math.sin(0.2617)
    stored = [stored_slice(i) for i in range(6)]
    for copy in (False, True):
        fine = not copy
        for i, pixels in enumerate(stored):
            changes = {
                "position": {"position": (-100.0, -120.0, round(1.25 * i + 0.1234, 4 if fine else 1))},
                "direction": {"orientation": [round(x, 6 if fine else 4) for x in (1, 0, 0, 0, cosine, -sine)]},
                "spacing": {"spacing": (0.703125, 0.703125) if fine else (0.7, 0.7)},
            }[kind]
            dataset = ct(pixels, z=1.25 * i, number=i, **changes)
            dataset.SOPInstanceUID = uid(f"instance {i}")
            save(dataset, tmp_path / "in" / f"{'b' if copy else 'a'}{i}")
    result = run()
    np.testing.assert_array_equal(result.only.read(), stored)
    assert result.only.header.defects["duplicates"] == 6
    assert all("/a" in row["path"] for row in read_sources(result.store.path, result.only.key))


def test_one_uid_for_all_slices_is_no_copy(tmp_path, run):
    """Anonymisers that write one UID everywhere; the slices of air are equal, too."""
    for i in range(5):
        dataset = ct(stored_slice(min(i, 2)), z=3.0 * i, number=i)
        dataset.SOPInstanceUID = uid("one")
        save(dataset, tmp_path / "in" / str(i))
    assert (run().only.entry.shape[0], run().only.header.defects) == (5, {})


def test_directions_that_differ_by_rounding_make_no_collision(tmp_path, run):
    rng = np.random.default_rng(0)
    for i in range(30):
        a, b = np.round(rng.uniform(-4.9e-4, 4.9e-4, 2), 6)
        options = {"orientation": (1, 0, a, 0, 1, b), "position": (-250, -250, round(i * 0.1, 3))}
        save(ct(stored_slice(i), number=i, **options), tmp_path / "in" / f"{i:02}")
    np.testing.assert_array_equal(run().only.read(), [stored_slice(i) for i in range(30)])


FRAME_GROUPS = {
    "kernel": ("CTReconstructionSequence", "ConvolutionKernel", ["B30f", "B70f"]),
    "type": ("CTImageFrameTypeSequence", "FrameType", [["ORIGINAL", "PRIMARY", "AXIAL", x] for x in "AB"]),
    "MR type": ("MRImageFrameTypeSequence", "FrameType", [["ORIGINAL", "PRIMARY", "M", x] for x in "AB"]),
    "echo": ("MREchoSequence", "EffectiveEchoTime", [4.6, 9.2]),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue", [0.0, 1000.0]),
    "cardiac phase": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", [0.0, 350.0]),
}


@pytest.mark.parametrize("name", FRAME_GROUPS)
def test_frames_of_one_object_are_told_apart_where_their_groups_say_so(tmp_path, run, name):
    sequence, element, values = FRAME_GROUPS[name]
    stored = np.stack([stored_slice(i) for i in range(6)])
    groups = [{sequence: item(**{element: values[i // 3]})} for i in range(6)]
    save(enhanced(stored, z=[0, 3, 6] * 2, groups=groups), tmp_path / "in" / "a.dcm")
    np.testing.assert_array_equal([volume.read() for volume in run().volumes], [stored[:3], stored[3:]])


def test_two_phases_in_one_enhanced_object_are_two_volumes(tmp_path, run):
    stored = np.stack([stored_slice(i) for i in range(6)])
    save(enhanced(stored, z=[0, 3, 6] * 2, acquisitions=[1, 1, 1, 2, 2, 2]), tmp_path / "in" / "a.dcm")
    volumes = run().volumes
    np.testing.assert_array_equal([volume.read() for volume in volumes], [stored[:3], stored[3:]])
