"""DeepNet against plain torchvision, and against the network alone. Seeded weights: speed does not depend on them."""

from __future__ import annotations

import pytest
import torch

from bench import inputs
from bench.peers import params
from bench.peers.deepnet import DEEPNET, torchvision_cosines
from lim_gpu.similarity import deepnet

JOB = "DeepNet"
FORWARD = "the forward pass alone"
N = {"cpu": 8, "cuda": 512}
BATCH = 256
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
ON_GPU = {"marks": pytest.mark.gpu}
OURS = [("cpu", "float32"), pytest.param("cuda", "float32", **ON_GPU), pytest.param("cuda", "bfloat16", **ON_GPU)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(resnet50(weights=None).state_dict(), path)
    return path


def plain(weights, device: str) -> torch.nn.Module:
    """torchvision's network as it comes."""
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    model.load_state_dict(torch.load(weights))
    return model.to(device).eval()


def error(cosines: torch.Tensor, slices: torch.Tensor, weights, tolerance: float) -> float:
    """The largest deviation of the first 8 slices from torchvision on the CPU."""
    expected = torchvision_cosines(slices[:8].cpu(), plain(weights, "cpu"))
    deviation = float((cosines[:8, :8].cpu() - expected).abs().max())
    assert deviation <= tolerance
    return deviation


def named(peer: str, precision: str) -> str:
    return peer if precision == "float32" else f"{peer}, {precision}"


@pytest.mark.budget(10)
@pytest.mark.parametrize(("peer", "device"), params(DEEPNET))
def test_peer(peer, device, weights, timed):
    slices, model = inputs.volume(N[device], device), plain(weights, device)
    off = error(peer.compute(slices[:8], model), slices, weights, peer.tolerance)
    timed(JOB, "slice", peer.name, lambda: peer.compute(slices, model), len(slices), n=len(slices), error=off)


@pytest.mark.budget(10)
@pytest.mark.parametrize(("device", "precision"), OURS)
def test_forward(device, precision, weights, timed):
    """The same network in the same precision on pictures that are ready."""
    model, n = deepnet.load_model(weights, device), N[device]
    batch = torch.zeros(min(n, BATCH), 3, deepnet.SIDE, deepnet.SIDE, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.no_grad(), deepnet._full_precision, half:
        peer = named(FORWARD, precision)
        timed(JOB, "slice", peer, lambda: [model(batch) for _ in range(n // len(batch))], n, n=n)


@pytest.mark.budget(10)
@pytest.mark.parametrize(("device", "precision"), OURS)
def test_lim_gpu(device, precision, weights, timed):
    slices, model = inputs.volume(N[device], device), deepnet.load_model(weights, device)

    def compute() -> torch.Tensor:
        return deepnet.cosine_matrix(deepnet.embed(slices, model, precision=precision))

    off = error(compute(), slices, weights, TOLERANCE[precision])
    timed(JOB, "slice", named("lim_gpu", precision), compute, len(slices), n=len(slices), error=off)
