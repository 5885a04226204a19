"""--max-thickness: the thickest slice of a volume counts, else its spacing; what is left out is told."""

from __future__ import annotations

import pytest

from dicom_files import change, ct, save, stored_slice
from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.progress import Reporter


def series(folder, name, spacing, thickness):
    """Four slices; thickness: of all, or of each."""
    each = thickness if isinstance(thickness, list) else [thickness] * 4
    for i, mm in enumerate(each):
        dataset = ct(stored_slice(i), z=spacing * i, number=i + 1, series=name)
        change(dataset, SliceThickness=mm)
        save(dataset, folder / name / f"{i}.dcm")


@pytest.fixture
def sources(tmp_path):
    for name, spacing, thickness in (
        ("thin", 5.0, 1.25),
        ("edge", 1.0, 3.0),
        ("thick", 1.0, 5.0),
        ("mixed", 1.0, [1.0, 1.0, 1.0, 4.0]),
        ("silent-thin", 2.0, None),
        ("silent-thick", 4.0, None),
    ):
        series(tmp_path / "sources", name, spacing, thickness)
    return tmp_path / "sources"


def kept(sources, store, **options):
    report = ingest(sources, store, keep_identifiers=True, workers=1, **options)
    return report, sorted(path for path, _ in report.planned)


def test_thick_volumes_are_left_out_and_counted(sources, tmp_path, capsys):
    report, planned = kept(sources, tmp_path / "slices", max_thickness=3, dry_run=True, reporter=Reporter())
    assert [path.split("/")[-1].split(" ")[0] for path in planned] == ["edge", "silent-thin", "thin"]
    assert report.counted == {"volumes thicker than 3 mm": 3}
    assert "2 volumes without a slice thickness: the distance between slices counts" in capsys.readouterr().err
    everything, planned = kept(sources, tmp_path / "slices", dry_run=True)
    assert (len(planned), everything.counted) == (6, {})


def test_what_stays_is_the_same_volume(sources, tmp_path):
    whole, _ = kept(sources / "thin", tmp_path / "slices")
    again, _ = kept(sources / "thin", tmp_path / "slices", max_thickness=2)
    assert (whole.written, again.written, again.unchanged) == (1, 0, True)


def test_nothing_thin_and_no_thickness_at_all(sources, tmp_path):
    with pytest.raises(InputError, match="no volume in it .*6 volumes thicker than 0.5 mm"):
        kept(sources, tmp_path / "slices", max_thickness=0.5)
    with pytest.raises(UsageError, match="--max-thickness 0: give millimetres, more than 0"):
        kept(sources, tmp_path / "slices", max_thickness=0)
