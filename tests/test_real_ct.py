"""Real CT, where it lies beside the checkout: a GE series whose names are not in spatial order, and NIfTI volumes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import normalized_mutual_information, structural_similarity

pytest.importorskip("imagehash")
pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

import imagehash
import nibabel
import pydicom

import lim_gpu
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def store_path(real_ct, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "slices"
    report = ingest([real_ct], path)
    assert not report.failures
    assert report.counted == {"SEG": 1}
    return path


@pytest.fixture(scope="module")
def slices(store_path):
    with SliceStore(store_path) as store:
        return Intensity.parse().to_uint8(store[0].read())


def test_slices_come_in_the_order_of_space_with_the_pixels_of_pydicom(store_path, headneck):
    positions = {
        path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])
        for path in headneck.glob("*.dcm")
    }
    in_space = sorted(positions, key=positions.get)
    assert [path.name for path in in_space] != sorted(path.name for path in in_space)
    with SliceStore(store_path) as store:
        volume = store[0]
        assert volume.entry.shape == (135, 512, 512)
        np.testing.assert_allclose(volume.z, sorted(positions.values()), atol=1e-3)
        assert [row["path"] for row in read_sources(store_path, volume.key)] == [str(path) for path in in_space]
        for i in (0, 60, 134):
            ds = pydicom.dcmread(in_space[i])
            np.testing.assert_array_equal(volume.read_slice(i), ds.pixel_array)  # slope 1, intercept 0
        assert (
            volume.read().min() == -3024
        )  # outside the field of view; the padding tag says -2000, which no pixel holds
        assert volume.header.padding == 0


def test_hash_equals_imagehash_on_every_pair(slices):
    hashes = [imagehash.dhash(Image.fromarray(image)) for image in slices]
    expected = np.array([[1 - (a - b) / 64 for b in hashes] for a in hashes], np.float32)
    np.testing.assert_array_equal(lim_gpu.similarity_matrix(slices, "hash", device="cpu").numpy(), expected)


SOME = [0, 3, 4, 50, 51, 90, 134]


def test_ssim_equals_scikit_image(slices):
    matrix = lim_gpu.similarity_matrix(slices[SOME], "ssim", device="cpu").numpy()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for i, j in combinations(range(len(SOME)), 2):
        assert matrix[i, j] == pytest.approx(
            structural_similarity(slices[SOME[i]], slices[SOME[j]], **options), abs=1e-5
        )


def test_mi_equals_scikit_image(slices):
    matrix = lim_gpu.similarity_matrix(slices[SOME], "mi", device="cpu").numpy()
    for i, j in combinations(range(len(SOME)), 2):
        assert matrix[i, j] == pytest.approx(normalized_mutual_information(slices[SOME[i]], slices[SOME[j]]), abs=1e-6)


def test_greedy_and_leader_equal_plain_walks(slices, store_path):
    hashes = [imagehash.dhash(Image.fromarray(image)) for image in slices]
    pairs = sorted((hashes[i] - hashes[j], i, j) for i, j in combinations(range(135), 2))
    greedy = set(range(135))
    for distance, i, j in pairs:
        if distance <= 6 and i in greedy and j in greedy:
            greedy.remove(j)
    left, leader = list(range(135)), []
    while left:
        leader.append(left.pop(0))
        left = [k for k in left if hashes[leader[-1]] - hashes[k] > 6]
    with SliceStore(store_path) as store:
        for rule, expected in (("greedy", sorted(greedy)), ("leader", leader)):
            selection = lim_gpu.reduce(store, "hash", threshold=6, rule=rule, device="cpu")
            assert [i for _key, i in selection.kept()] == expected
    assert sorted(greedy) != leader


def test_nifti_is_brought_to_the_display_of_axial_ct(nifti_folder, tmp_path):
    ingest([nifti_folder], tmp_path / "slices", keep_identifiers=True)
    with SliceStore(tmp_path / "slices") as store:
        assert len(store) == 3
        for volume in store:
            image = nibabel.load(nifti_folder.parent / f"{volume.header.name}.nii.gz")
            canonical = np.asarray(nibabel.as_closest_canonical(image).dataobj)  # right, anterior, superior
            np.testing.assert_array_equal(volume.read(), canonical.transpose(2, 1, 0)[:, ::-1, ::-1])
