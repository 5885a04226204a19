"""What an ingest says of itself: a line or two, however many volumes there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lim_gpu.ingest import IngestReport


@pytest.mark.parametrize(
    ("single", "slices", "hint"), [(195, 195, True), (12, 14, True), (9, 9, False), (12, 500, False)]
)
def test_many_volumes_of_one_slice_are_answered_with_a_hint(single, slices, hint):
    lines = IngestReport(Path("s"), written=single, slices=slices, single=single).lines()
    assert any("--scope dataset" in line and "case_1.png" in line for line in lines) == hint


def test_a_dry_run_lists_a_few_volumes_and_counts_the_rest():
    planned = [(f"v{i}", (2, 8, 8)) for i in range(300)]
    report = IngestReport(Path("s"), slices=600, planned=planned, dry_run=True)
    assert report.lines()[-2:] == ["... and 260 more volumes. --json lists all", "plan: 300 volumes, 600 slices -> s"]
    assert len(report.lines()) == 42
    assert len(report.values()["planned"]) == 300


def test_of_what_is_passed_by_one_is_named():
    counted, examples = (
        {"SR": 3, "not an image": 1, "volumes thicker than 3 mm": 2},
        {"SR": "a.dcm", "not an image": "b"},
    )
    report = IngestReport(Path("s"), counted=counted, examples=examples)
    assert report.lines()[-1] == "passed by: 3 SR such as a.dcm, 1 not an image: b, 2 volumes thicker than 3 mm"
    assert report.values()["examples"] == examples


def test_one_is_one():
    assert IngestReport(Path("s"), written=1, slices=1).lines() == ["1 volume, 1 slice -> s"]
