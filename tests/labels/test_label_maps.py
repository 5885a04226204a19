"""NIfTI label maps to masks, in the order and the orientation of their volumes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel")

import nibabel as nib

from lim_gpu.errors import InputError
from lim_gpu.ingest import ingest
from lim_gpu.labels.make import make_labels
from lim_gpu.labels.masks import mask_name
from lim_gpu.labels.origins import Place
from lim_gpu.store.slices import SliceStore

SHAPE = (9, 8, 5)  # i, j, k
AFFINE = np.diag([-0.7, 0.7, 2.0, 1.0])


def write(path, values, affine=AFFINE, intent=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    if intent:
        image.header.set_intent(intent)
    nib.save(image, path)
    return path


def volume(seed):
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def labelled(seed):
    return np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)


def make(tmp_path, **options):
    ingest([tmp_path / "in"], tmp_path / "store", workers=1)
    return make_labels("nifti", tmp_path / "maps", tmp_path / "store", tmp_path / "out", **options)


def test_a_map_is_turned_as_its_volume_though_it_lies_otherwise_in_its_file(tmp_path):
    """The map is flipped along i and k in the file, and says so in its affine: the same place in space."""
    data, labels = volume(1), labelled(2)
    write(tmp_path / "in/case.nii.gz", data)
    flips = np.diag([-1.0, 1.0, -1.0, 1.0])
    flips[[0, 2], 3] = np.array(SHAPE)[[0, 2]] - 1
    write(tmp_path / "maps/case.nii", labels[::-1, :, ::-1], AFFINE @ flips, "label")
    assert make(tmp_path).values["marked"] == 5
    with SliceStore(tmp_path / "store") as store:
        stored, key = store[0].read(), store.volumes[0].key
    masks = np.stack([np.asarray(Image.open(tmp_path / "out" / mask_name(Place(key, i)))) for i in range(5)])
    by_value = {value: labels[data == value] for value in np.unique(data) if (data == value).sum() == 1}
    assert len(by_value) > 100
    for value, label in by_value.items():
        assert masks[stored == value] == label


def test_volumes_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for name, seed in (("s1", 1), ("s2", 2)):
        write(tmp_path / f"in/{name}/ct.nii.gz", volume(seed))
    only = np.zeros(SHAPE, dtype=np.uint8)
    only[0, 0, 3] = 9
    write(tmp_path / "maps/s2/ct.nii.gz", only)
    write(tmp_path / "maps/other.nii.gz", only)
    outcome = make(tmp_path)
    assert (outcome.values["volumes"], outcome.values["marked"]) == (1, 1)
    assert outcome.values["counted"] == {"label maps without a volume of that name": 1}
    with SliceStore(tmp_path / "store") as store:
        second = store.volumes[1].key
    assert (tmp_path / "out" / mask_name(Place(second, 3))).exists()
    write(tmp_path / "maps/ct.nii.gz", only)
    with pytest.raises(InputError, match="2 volumes of that name"):
        make(tmp_path, overwrite=True)


def test_a_map_of_another_size_place_or_kind_is_named(tmp_path):
    for name in "abcd":
        write(tmp_path / f"in/{name}.nii.gz", volume(1))
    write(tmp_path / "maps/a.nii.gz", labelled(1)[:, :, 1:])
    write(tmp_path / "maps/b.nii.gz", labelled(1), AFFINE + np.array([[0, 0, 0, 0.3]] + [[0] * 4] * 3))
    write(tmp_path / "maps/c.nii.gz", volume(1))
    write(tmp_path / "maps/d.nii.gz", labelled(1))
    outcome = make(tmp_path)
    assert outcome.skipped
    causes = "\n".join(outcome.values["failures"])
    assert "a.nii.gz: has 4 x 8 x 9 voxels, its volume 5 x 8 x 9" in causes
    assert "b.nii.gz: lies 0.30 mm beside its volume" in causes
    assert "c.nii.gz: no label map" in causes
    assert outcome.values["volumes"] == 1
