"""DeepNet with the features of a pre-trained network: our checkpoints and other makers', against torch alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from checkpoints import FOREIGN
from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.images import Normalisation, network_input
from lim_gpu.reduction.run import reduce
from lim_gpu.selection import Selection
from lim_gpu.similarity import similarity_matrix
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.backbone import resnet
from lim_gpu.weights.load import FORMAT, preprocess, sidecar
from stores import make_store


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("checkpoints"), (("head", 4, 40, 48), ("chest", 5, 64, 48)))


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "three channels"])
def ours(request, tmp_path_factory):
    """A checkpoint as `pretrain` leaves it, with its network and how its images were normalised."""
    torch.manual_seed(request.param)
    network, channels = resnet("resnet18", request.param).eval(), request.param
    path = tmp_path_factory.mktemp("ours") / "last.ckpt"
    scales = (0.3, 0.25) if channels == 1 else ((0.3, 0.2, 0.1), (0.2, 0.3, 0.4))
    about = {"format": FORMAT, "version": 1, "method": "swav", "backbone": "resnet18", "epoch": 7}
    about |= {"channels": channels, "preprocess": preprocess(*scales, channels)}
    state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "lim_gpu": about}, path)
    sidecar(path).write_text(json.dumps(about))
    return path, network, Normalisation(*(tuple(about["preprocess"][name]) for name in ("mean", "std")))


def cosines(path, network, normalisation):
    """Of all pairs of each volume, by labelled.images and torch."""
    with SliceStore(path) as store:
        for volume in store:
            images = torch.from_numpy(Intensity().to_uint8(volume.read()))[:, None]
            with torch.no_grad():
                features = network(network_input(images, 224, "bilinear", normalisation))
            yield cosine_similarity(features[:, None], features[None], dim=2)


def test_the_criterion_is_the_network_of_the_checkpoint(store_path, ours, tmp_path):
    weights, network, normalisation = ours
    assert min(float(matrix.min()) for matrix in cosines(store_path, network, normalisation)) < 0.995  # they differ
    selection = reduce(store_path, "deepnet", keep=0.4, weights=weights, device="cpu", output=tmp_path / "s.csv")
    for volume, expected in zip(selection.volumes, cosines(store_path, network, normalisation), strict=True):
        by = [place for _key, place in volume.covered_by]
        np.testing.assert_allclose(volume.similarity, expected[range(len(by)), by], atol=2e-5)
        assert 0 < volume.kept.sum() < len(by)
    record = Selection.load(tmp_path / "s.csv").record
    assert record["parameters"]["features"] == "pooled"
    assert record["parameters"]["weights"].startswith("sha256:")
    told = {name: record["network"][name] for name in ("file", "method", "backbone", "epoch")}
    assert told == {"file": "last.ckpt", "method": "swav", "backbone": "resnet18", "epoch": 7}


def test_python_takes_it_too(store_path, ours):
    weights, network, normalisation = ours
    with SliceStore(store_path) as store:
        images = Intensity().to_uint8(store[1].read())
    expected = list(cosines(store_path, network, normalisation))[1]
    found = similarity_matrix(images, "deepnet", weights=weights, device="cpu")
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_pairs_at_a_threshold_are_computed_again_in_float64(store_path, ours):
    weights, network, normalisation = ours
    values = next(cosines(store_path, network, normalisation))
    threshold = float(values[0, 1]) + 1e-6
    selection = reduce(store_path, "deepnet", threshold=threshold, weights=weights, device="cpu")
    assert selection.record["borderline"] >= 1


@pytest.mark.parametrize("maker", ["MoCo of Wolf et al.", "SparK", "lightly", "torchvision names"])
def test_another_makers_backbone_is_taken_where_pooled_features_are_asked_for(store_path, ours, maker, tmp_path):
    _weights, network, _normalisation = ours
    torch.save(FOREIGN[maker](network.state_dict()), tmp_path / "other.pth")
    how = {"keep": 0.4, "weights": tmp_path / "other.pth", "device": "cpu"}
    assert "backbone" not in reduce(store_path, "deepnet", features="pooled", **how).record["network"]
    with pytest.raises(InputError, match="--features pooled"):
        reduce(store_path, "deepnet", **how)
