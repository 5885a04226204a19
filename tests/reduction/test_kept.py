"""What is kept, against a separate, plain implementation: methods, rules, budgets and scopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torchvision.models import resnet50

import lim_gpu
from lim_gpu.similarity.ssim import ssim_pair
from reductions import kept_of


def pixels(store):
    return {volume.key: volume.read() for volume in store}


def plain_hash_matrix(slices):
    imagehash = pytest.importorskip("imagehash")
    hashes = [imagehash.dhash(Image.fromarray(image)) for image in slices]
    return [[1 - (a - b) / 64 for b in hashes] for a in hashes]


def plain_ssim_matrix(slices):
    def ssim(x, y):
        return structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )

    return [[ssim(x, y) for y in slices] for x in slices]


def plain_greedy(matrix, stop):
    there = set(range(len(matrix)))
    pairs = sorted((-matrix[i][j], i, j) for i in there for j in there if i < j)
    for negative, i, j in pairs:
        if stop(len(there), -negative):
            break
        if i in there and j in there:
            there.remove(j)
    return sorted(there)


def plain_leader(matrix, threshold):
    left, kept = list(range(len(matrix))), []
    while left:
        kept.append(left.pop(0))
        left = [k for k in left if matrix[kept[-1]][k] < threshold]
    return kept


def test_hash_threshold_equals_a_plain_walk(store):
    expected = {
        key: plain_greedy(plain_hash_matrix(slices), lambda _n, s: s < 1 - 6 / 64)
        for key, slices in pixels(store).items()
    }
    assert kept_of(lim_gpu.reduce(store, method="hash", threshold=6, device="cpu")) == expected
    assert kept_of(lim_gpu.reduce(store, method="hash", device="cpu")) == expected
    assert any(len(kept) > 1 for kept in expected.values())


def test_leader_equals_the_authors_walk(store):
    expected = {key: plain_leader(plain_hash_matrix(s), 1 - 6 / 64) for key, s in pixels(store).items()}
    assert kept_of(lim_gpu.reduce(store, method="hash", threshold=6, rule="leader", device="cpu")) == expected


def test_lexicographic_leader_walks_the_slices_as_file_names_sort(store):
    expected = {}
    for key, slices in pixels(store).items():
        order = sorted(range(len(slices)), key=str)
        kept = plain_leader(plain_hash_matrix(slices[order]), 1 - 3 / 64)
        expected[key] = sorted(order[i] for i in kept)
    selection = lim_gpu.reduce(store, "hash", threshold=3, rule="leader", order="lexicographic", device="cpu")
    assert kept_of(selection) == expected
    spatial = lim_gpu.reduce(store, "hash", threshold=3, rule="leader", device="cpu")
    assert kept_of(spatial) != expected


def test_ssim_keep_equals_a_plain_walk(store):
    expected = {}
    for key, slices in pixels(store).items():
        target = max(1, int(np.ceil(0.3 * len(slices) - 1e-9)))
        expected[key] = plain_greedy(plain_ssim_matrix(slices), lambda n, _s, target=target: n <= target)
    assert kept_of(lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu")) == expected


def test_every_dropped_slice_names_the_nearest_kept_one(store):
    selection = lim_gpu.reduce(store, "ssim", keep=0.3, device="cpu")
    for volume, slices in zip(selection.volumes, pixels(store).values(), strict=True):
        matrix = np.array(plain_ssim_matrix(slices))
        kept = np.flatnonzero(volume.kept)
        for i in range(len(slices)):
            key, covering = volume.covered_by[i]
            assert key == volume.key
            assert volume.kept[covering]
            assert matrix[i, covering] == pytest.approx(matrix[i, kept].max(), abs=1e-5)
            assert volume.similarity[i] == pytest.approx(matrix[i, covering], abs=1e-5)
            assert covering == i or not volume.kept[i]
        n = len(slices)
        assert sorted(volume.rank.tolist()) == list(range(n))
        assert set(np.argsort(volume.rank)[n - len(kept) :]) == set(kept)


@pytest.mark.parametrize("method", ["ssim", "mi", "hash"])
def test_keep_and_threshold_the_first_that_stops_stops(store, method):
    threshold = {"ssim": 0.8, "mi": 1.2, "hash": 8}[method]
    both = kept_of(lim_gpu.reduce(store, method, keep=0.3, threshold=threshold, device="cpu"))
    one, other = (
        kept_of(lim_gpu.reduce(store, method, device="cpu", **stop))
        for stop in ({"keep": 0.3}, {"threshold": threshold})
    )
    assert both == {key: sorted({*one[key], *other[key]}) for key in both}


def test_baselines(store):
    assert all(volume.kept.all() for volume in lim_gpu.reduce(store, "all").volumes)
    every = kept_of(lim_gpu.reduce(store, "every-n", keep=0.25))
    assert next(iter(every.values())) == [0, 4, 8, 12]
    chosen = lim_gpu.reduce(store, "random", keep=0.25, seed=5)
    assert kept_of(chosen) == kept_of(lim_gpu.reduce(store, "random", keep=0.25, seed=5))
    assert kept_of(chosen) != kept_of(lim_gpu.reduce(store, "random", keep=0.25, seed=6))
    for volume in chosen.volumes:
        kept = np.flatnonzero(volume.kept)
        assert (volume.rank == -1).all()
        for i, (_key, covering) in enumerate(volume.covered_by):
            assert covering == kept[np.argmin(np.abs(kept - i))]


def test_scope_patient_prunes_a_patients_volumes_together(store):
    selection = lim_gpu.reduce(store, "hash", keep=0.2, scope="patient", device="cpu")
    units = selection.record["units"]
    assert [unit["slices"] for unit in units] == [23, 12]
    assert [unit["kept"] for unit in units] == [5, 3]
    slices = pixels(store)
    first = [image for key in units[0]["volumes"] for image in slices[key]]
    kept = plain_greedy(plain_hash_matrix(first), lambda n, _s: n <= 5)
    places = [(key, i) for key in units[0]["volumes"] for i in range(len(slices[key]))]
    assert [place for place in selection.kept() if place[0] in units[0]["volumes"]] == [places[i] for i in kept]


def test_scope_dataset_covers_across_volumes(store):
    selection = lim_gpu.reduce(store, "hash", keep_count=2, scope="dataset", device="cpu")
    assert len(selection.kept()) == 2
    assert {covering for volume in selection.volumes for covering in volume.covered_by} <= set(selection.kept())


def test_deepnet_over_volumes_of_different_sizes(store, tmp_path):
    torch.manual_seed(0)
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "w.pth")
    options = {"scope": "dataset", "weights": tmp_path / "w.pth", "device": "cpu"}
    ranked = lim_gpu.reduce(store, "deepnet", keep_count=2, **options)
    at = ranked.record["resolved_threshold"]
    selection = lim_gpu.reduce(store, "deepnet", threshold=at, **options)
    assert selection.record["borderline"] >= 1
    assert 1 <= len(selection.kept()) <= 3


def test_the_threshold_resolves_in_the_methods_own_unit(store):
    record = lim_gpu.reduce(store, "hash", keep=0.3, device="cpu").record
    bits = [unit["resolved_threshold"] for unit in record["units"] if unit["slices"] > 1]
    assert all(value == int(value) and 0 <= value <= 64 for value in bits)
    assert record["resolved_threshold"] == max(bits)


def test_pairs_near_the_threshold_are_decided_in_float64(store):
    volume = next(iter(store))
    slices = volume.read()
    exact = ssim_pair(slices[0], slices[1], 255)
    assert exact == pytest.approx(plain_ssim_matrix(slices[:2])[0][1], abs=1e-10)
    at = lim_gpu.reduce(store, "ssim", threshold=exact, rule="leader", device="cpu")
    above = lim_gpu.reduce(store, "ssim", threshold=float(np.nextafter(exact, 2)), rule="leader", device="cpu")
    assert at.record["borderline"] >= 1
    assert kept_of(at)[volume.key][1:2] != [1]
    assert kept_of(above)[volume.key][1] == 1
