"""Kept slices brought to the user's own files: the right ones, over nothing else, resumed, within the folder."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel")

import nibabel as nib

import lim_gpu
from dicom_files import series
from lim_gpu.errors import InputError, UsageError
from lim_gpu.ingest import ingest
from lim_gpu.progress import Reporter
from lim_gpu.selection import Selection, apply
from lim_gpu.selection.files import kept_list
from stores import make_store
from volumes import pixels, write_store

RAS = np.array([[-0.7, 0, 0, 12.0], [0, -0.8, 0, 7.0], [0, 0, 3.0, -40.0], [0, 0, 0, 1]])


def reduced(store: Path, method="every-n", **options) -> Selection:
    with lim_gpu.SliceStore(store) as opened:
        return lim_gpu.reduce(opened, method, output=store.parent / "s.csv", **options)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "files.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pictures(tmp_path):
    return reduced(make_store(tmp_path, (("chest", 6, 24, 20), ("head", 4, 20, 24))), keep=0.5)


@pytest.fixture
def voxels(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 2000, (6, 5, 8)).astype(np.int16)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(values, RAS), tmp_path / "in" / "scan.nii.gz")
    ingest(tmp_path / "in", tmp_path / "slices", workers=1)
    return values


def test_every_kept_slice_has_its_source(pictures, tmp_path):
    rows = pictures.files()
    assert [(row["volume"], row["slice"]) for row in rows] == pictures.kept()
    assert [Path(row["image"]).name for row in rows] == [
        *(f"p00v00_{i}.png" for i in (0, 2, 4)),
        *(f"p00v01_{i}.png" for i in (0, 2)),
    ]
    assert {row["image"] for row in pictures.files(kept=None)} == {str(p) for p in (tmp_path / "sources").glob("*.png")}
    assert len(pictures.files(kept=False)) == 5


def test_a_dicom_slice_has_z_and_its_uid(tmp_path):
    series(tmp_path / "in", 4)
    ingest(tmp_path / "in", tmp_path / "slices", workers=1)
    row = reduced(tmp_path / "slices", keep_count=1).files()[0]
    assert row["sop_uid"].count(".") > 2
    lines = kept_list([row]).splitlines()
    assert lines[0] == "path\tsop_instance_uid\tframe\tvolume\tslice\tz_mm"
    assert lines[1].split("\t") == [row["image"], row["sop_uid"], "0", row["volume"], "0", repr(row["z"])]


@pytest.mark.parametrize("how", ["copy", "link"])
def test_source_files_come_as_they_are(pictures, tmp_path, how):
    outcome = pictures.apply(tmp_path / "kept", how)
    rows = table(tmp_path / "kept")
    assert [(row["volume"], int(row["slice"])) for row in rows] == pictures.kept()
    for row, source in zip(rows, pictures.files(), strict=True):
        assert (tmp_path / "kept" / row["file"]).read_bytes() == Path(source["image"]).read_bytes()
        assert (tmp_path / "kept" / row["file"]).is_symlink() == (how == "link")
    assert outcome.values["written"] == 6  # files.csv is one
    assert (tmp_path / "kept" / "files.csv").stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "kept").glob("*.png"))) == 5


def test_a_list_names_the_sources_and_copies_nothing(pictures, tmp_path):
    pictures.apply(tmp_path / "kept", "list")
    assert [row["file"] for row in table(tmp_path / "kept")] == [row["image"] for row in pictures.files()]
    assert not list((tmp_path / "kept").glob("*.png"))
    with pytest.raises(UsageError, match=r"Give .*/kept, whose files\.csv is the list"):
        pictures.apply(tmp_path / "kept.txt", "list")
    assert not (tmp_path / "kept.txt").exists()


def test_again_it_is_unchanged_and_what_lacks_is_added(pictures, tmp_path):
    pictures.apply(tmp_path / "kept")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("[!.]*")}
    again = pictures.apply(tmp_path / "kept")
    assert again.values["unchanged"]
    assert again.lines[0].startswith("unchanged: ")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("[!.]*")} == before
    gone, changed = sorted((tmp_path / "kept").glob("*.png"))[:2]
    gone.unlink()
    changed.write_bytes(b"the user's own")
    assert pictures.apply(tmp_path / "kept").values["written"] == 1
    assert gone.exists()
    assert changed.read_bytes() == b"the user's own"


def test_another_folder_is_never_touched(pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "p00v00_0.png").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        pictures.apply(tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["precious"]
    pictures.apply(tmp_path / "kept")
    with pytest.raises(UsageError, match="another selection or form"):
        pictures.apply(tmp_path / "kept", form="png")


def test_what_another_call_brought_is_replaced_where_that_is_said(pictures, tmp_path):
    kept, first = tmp_path / "kept", pictures.apply(tmp_path / "kept", form="png")
    (kept / "mine.txt").write_text("precious")
    before = sorted(kept.rglob("*"))
    plan = pictures.apply(kept, "link", overwrite=True, dry_run=True)
    assert sorted(kept.rglob("*")) == before
    assert plan.values["files"] == first.values["files"]
    pictures.apply(kept, "link", overwrite=True)
    names = {row["file"] for row in table(kept)}
    assert {str(path.relative_to(kept)) for path in kept.rglob("[!.]*")} == names | {
        "applied.json", "files.csv", "mine.txt"
    }  # fmt: skip
    assert all((kept / name).is_symlink() for name in names)
    assert pictures.apply(kept, "link", overwrite=True).values["unchanged"]
    assert all(Path(row["image"]).is_file() for row in pictures.files())


def test_a_replaced_list_leaves_the_sources_that_it_names(pictures, tmp_path):
    pictures.apply(tmp_path / "kept", "list")
    pictures.apply(tmp_path / "kept", overwrite=True)
    assert all(Path(row["image"]).is_file() for row in pictures.files())
    assert len(list((tmp_path / "kept").glob("*.png"))) == 5


def test_files_that_the_other_call_did_not_make_are_not_replaced(pictures, tmp_path):
    kept = tmp_path / "kept"
    pictures.apply(kept, "list")
    (kept / "p00v00_2.png").write_text("precious")
    with pytest.raises(UsageError, match=r"p00v00_2\.png: is in the way"):
        pictures.apply(kept, overwrite=True)
    (kept / "p00v00_2.png").unlink()
    (kept / "files.csv").write_text("file\n../sources/p00v00_0.png\n.\n")
    pictures.apply(kept, overwrite=True)
    assert (tmp_path / "sources" / "p00v00_0.png").is_file()
    (kept / "files.csv").unlink()
    with pytest.raises(UsageError, match="was interrupted here"):
        pictures.apply(kept, "link", overwrite=True)


def test_missing_sources_are_one_line_and_the_rest_goes_on(pictures, tmp_path):
    for i in (0, 2):
        (tmp_path / "sources" / f"p00v00_{i}.png").unlink()
    outcome = pictures.apply(tmp_path / "kept")
    assert outcome.skipped
    assert [line for line in outcome.lines if line.startswith("missing: ")] == [outcome.lines[1]]
    assert "2 of 5 source files" in outcome.lines[1]
    assert "p00v00_0.png" in outcome.lines[1]
    assert len(table(tmp_path / "kept")) == 3


def test_a_dry_run_counts_and_writes_nothing(pictures, tmp_path):
    assert pictures.apply(tmp_path / "kept", dry_run=True).lines == [
        f"plan: 5 slices in 5 files -> {tmp_path / 'kept'}, files.csv"
    ]
    assert not (tmp_path / "kept").exists()


def test_folders_of_the_sources_stay_below(tmp_path):
    """Names that stand in several folders do not meet, and none leads out."""
    for name in ("a", "b"):
        make_store(tmp_path / name, (("chest", 3, 24, 20),))
        (tmp_path / name / "sources").rename(tmp_path / f"in_{name}")
    ingest([tmp_path / "in_a", tmp_path / "in_b"], tmp_path / "slices", workers=1)
    reduced(tmp_path / "slices", "all").apply(tmp_path / "kept")
    found = sorted(str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*.png"))
    assert found == [f"in_{name}/p00v00_{i}.png" for name in "ab" for i in range(3)]


def test_nifti_holds_the_voxels_at_their_places(voxels, tmp_path):
    selection = reduced(tmp_path / "slices", keep_count=4)
    selection.apply(tmp_path / "kept", form="nifti")
    image = nib.load(tmp_path / "kept" / f"{selection.volumes[0].key}.nii.gz")
    kept = [i for _, i in selection.kept()]
    assert kept == [0, 2, 4, 6]
    assert image.get_data_dtype() == np.int16
    found = np.asanyarray(image.dataobj)
    original = nib.load(tmp_path / "in" / "scan.nii.gz")
    for voxel in np.ndindex(*found.shape):
        place = np.linalg.inv(original.affine) @ image.affine @ [*voxel, 1]
        source = tuple(np.rint(place[:3]).astype(int))
        np.testing.assert_allclose(place[:3], source, atol=1e-4)
        assert found[voxel] == voxels[source]
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert [int(row["frame"]) for row in table(tmp_path / "kept")] == [0, 1, 2, 3]


@pytest.mark.parametrize(("kept", "said"), [([0, 2, 4], False), ([0, 1, 5], True), ([3], False)])
def test_slices_that_lie_unevenly_in_a_nifti_are_said(voxels, tmp_path, capsys, monkeypatch, kept, said):
    selection = reduced(tmp_path / "slices", keep_count=4)
    (volume,) = selection.volumes
    chosen = replace(volume, kept=np.isin(np.arange(len(volume.kept)), kept))
    selection, how = replace(selection, volumes=(chosen,)), {"form": "nifti", "reporter": Reporter()}
    warning = f"warning: {volume.key}.nii.gz: slices that lie unevenly. NIfTI has one step, here their median"
    plan = selection.apply(tmp_path / "kept", dry_run=True, **how)
    assert (warning in capsys.readouterr().err) == said
    said_before: list[bool] = []
    write = apply.write_nifti

    def noted(*arguments):
        said_before.append(warning in capsys.readouterr().err)
        write(*arguments)

    monkeypatch.setattr(apply, "write_nifti", noted)
    outcome = selection.apply(tmp_path / "kept", **how)
    assert said_before == [said]
    for found in (plan, outcome):
        assert found.values["uneven"] == ([f"{volume.key}.nii.gz"] if said else [])
        assert ("slices lie unevenly in 1 of 1 file. Their z_mm is in files.csv" in found.lines) == said


def test_a_volume_without_a_place_becomes_nifti_without_one(pictures, tmp_path):
    pictures.apply(tmp_path / "kept", form="nifti")
    image = nib.load(tmp_path / "kept" / f"{pictures.volumes[0].key}.nii.gz")
    assert image.header["sform_code"] == 0
    expected = np.asarray(Image.open(tmp_path / "sources" / "p00v00_2.png"))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj)[..., 1].T, expected)


def test_png_has_the_window_of_the_selection(tmp_path):
    store = write_store(tmp_path / "slices", [pixels(5)])
    from lim_gpu.intensity import Intensity

    lung = Intensity.parse(window="lung")
    selection = reduced(store, "hash", keep=0.5, intensity=lung)
    selection.apply(tmp_path / "kept", form="png")
    written = sorted((tmp_path / "kept" / ("0" * 16)).glob("*.png"))
    assert [int(path.stem) for path in written] == [i for _, i in selection.kept()]
    for path in written:
        picture = Image.open(path)
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), lung.to_uint8(pixels(5))[int(path.stem)])


@pytest.mark.parametrize(
    ("how", "form", "word"),
    [("move", "source", "copy, link, list"), ("copy", "jpeg", "nifti"), ("link", "png", "Give `copy`")],
)
def test_what_cannot_be_is_refused(pictures, tmp_path, how, form, word):
    with pytest.raises(UsageError, match=word):
        pictures.apply(tmp_path / "kept", how, form)


def test_dicom_is_refused_where_sources_are_something_else(pictures, tmp_path):
    with pytest.raises(UsageError, match="image files, not DICOM"):
        pictures.apply(tmp_path / "kept", form="dicom")


def test_a_file_of_many_slices_says_so(voxels, tmp_path):
    outcome = reduced(tmp_path / "slices", keep=0.5).apply(tmp_path / "kept")
    assert outcome.values["files"] == 1
    assert outcome.lines[-1].startswith("1 file holds dropped slices as well. ")


def test_without_the_private_list_the_remedy_is_told(pictures, tmp_path):
    os.rename(tmp_path / "slices.private", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"slices\.private back beside the store"):
        pictures.apply(tmp_path / "kept")


def test_a_reduced_store_knows_its_sources_and_its_key(pictures, tmp_path):
    from lim_gpu.reduction.copy import write_selected

    with lim_gpu.SliceStore(tmp_path / "slices") as store:
        write_selected(store, pictures.volumes, tmp_path / "reduced")
        assert store.skipped == {}
    key = (tmp_path / "slices.private" / "key").read_text()
    assert (tmp_path / "reduced.private" / "key").read_text() == key
    assert (tmp_path / "reduced.private" / "key").stat().st_mode & 0o777 == 0o600
    again = reduced(tmp_path / "reduced", "all", overwrite=True)
    assert [row["image"] for row in again.files()] == [row["image"] for row in pictures.files()]


def test_a_selection_holds_for_a_new_ingest_with_the_same_key_and_says_what_to_do_with_another(pictures, tmp_path):
    source = {"sources": tmp_path / "sources", "patient_pattern": r"(p\d+)v", "workers": 1}
    (tmp_path / "new.private").mkdir()
    (tmp_path / "new.private" / "key").write_bytes((tmp_path / "slices.private" / "key").read_bytes())
    ingest(output=tmp_path / "new", **source)
    assert len(pictures.files(store=tmp_path / "new")) == 5
    ingest(output=tmp_path / "other", **source)
    with pytest.raises(InputError, match=r"another key.*other\.private/key and run lim-gpu ingest again"):
        pictures.files(store=tmp_path / "other")
