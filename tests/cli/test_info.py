"""What `lim-gpu info` tells of stores and selections."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nibabel")

import nibabel

import lim_gpu
from lim_gpu.cli.info import describe
from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.phantom import phantom
from lim_gpu.progress import Reporter
from stores import make_store
from volumes import pixels, write_store

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("info"))


def test_a_store_is_described_and_verified(store_path):
    description = describe(store_path, True, QUIET)
    assert description.values["slices"] == 35
    assert description.values["verified"] == 4
    assert "4 volumes" in description.lines[0]
    assert "2 patients" in description.lines[0]
    assert not description.skipped


def test_the_private_list_of_the_sources_is_pointed_to(store_path, tmp_path):
    description = describe(store_path, False, QUIET)
    folder = store_path.parent / "slices.private" / "sources"
    assert description.values["sources"] == str(folder)
    assert description.lines[-1].startswith(f"source files of the slices: {folder}/KEY.jsonl, private")
    assert (folder / f"{description.values['volumes'][0]['key']}.jsonl").is_file()
    alone = describe(write_store(tmp_path / "slices", [pixels(1, 4, 4)]), False, QUIET)
    assert alone.values["sources"] is None
    assert "source files" not in alone.lines[-1]


def test_geometry_and_defects_stand_beside_each_volume(tmp_path):
    voxels = phantom("chest", 5, 24, 20, seed=0).astype(np.float32)
    voxels[0] = 1e6  # a fifth of the pixels does not fit
    folder = tmp_path / "sources"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.7, 0.8, 2.5, 1])), folder / "v.nii")
    ingest([folder], tmp_path / "slices", workers=1)
    description = describe(tmp_path / "slices", False, QUIET)
    (volume,) = description.values["volumes"]
    assert volume["spacing"] == pytest.approx([2.5, 0.8, 0.7])
    assert (volume["unit"], volume["orientation"]) == ("HU", "axial")
    assert volume["found"] == ["20.0 % of the pixels clamped to int16"]
    line, below = description.lines[2:4]
    assert line.endswith("CT    HU  2.5 x 0.8 x 0.7 mm  axial")
    assert below.strip() == volume["found"][0]


def test_a_volume_that_cannot_be_read_is_named(tmp_path):
    store = make_store(tmp_path, (("head", 3, 40, 40),))
    (file,) = (store / "volumes").glob("*.h5")
    file.write_bytes(b"nothing")
    description = describe(store, False, QUIET)
    assert file.name in description.values["volumes"][0]["unreadable"]
    assert file.name in description.lines[3]


def test_a_selection_is_described(store_path, tmp_path):
    with lim_gpu.SliceStore(store_path) as store:
        lim_gpu.reduce(store, "every-n", keep=0.5, output=tmp_path / "s.csv")
    description = describe(tmp_path / "s.csv", False, QUIET)
    assert description.values["method"] == "every-n"
    assert "every-n (scope volume, keep 0.5)" in description.lines[0]


def test_a_changed_volume_is_found(store_path):
    file = sorted((store_path / "volumes").glob("*.h5"))[0]
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1000] + bytes(1000))
        assert [name for name, _cause in describe(store_path, True, QUIET).values["failures"]] == [file.stem]
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_what_is_neither_is_refused(tmp_path, name):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match=name):
        describe(tmp_path / name, False, QUIET)


def test_a_run_is_pointed_to_its_checkpoint(tmp_path):
    from lim_gpu.weights.export import export

    run = tmp_path / "run"
    (run / "runs" / "0" / "candidate-0").mkdir(parents=True)
    for name in ("runs/0/candidate-0/best.ckpt", "last.ckpt"):  # of finetune, of pretrain
        (run / name).write_bytes(b"")
        for call in (lambda: describe(run, False, QUIET), lambda: export(run, tmp_path / "w.safetensors")):
            with pytest.raises(InputError, match=f"is a run. Give .*{name}"):
                call()


def test_hundreds_of_volumes_are_a_few_lines_and_a_count(tmp_path):
    store = write_store(tmp_path / "slices", [pixels(1, 4, 4)] * 45)
    lines = describe(store, False, QUIET).lines
    assert lines[-1] == "... and 5 more volumes. --json lists all"
    assert len(lines) == 2 + 2 * 40 + 1
    assert "45 volumes (45 CT), 45 slices, 23 patients" in lines[0]
    lim_gpu.reduce(store, "all", output=tmp_path / "s.csv")
    assert describe(tmp_path / "s.csv", False, QUIET).lines[-1] == "... and 5 more units. --json lists all"


def test_one_is_one(tmp_path):
    store = write_store(tmp_path / "slices", [pixels(1, 4, 4)])
    assert "1 volume (1 CT), 1 slice, 1 patient" in describe(store, False, QUIET).lines[0]
