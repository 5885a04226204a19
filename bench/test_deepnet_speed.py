"""DeepNet against plain torchvision: its transforms and its ResNet50, a slice at a time. Seeded weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import resnet50
from torchvision.transforms import v2

from lim_gpu.similarity.deepnet import cosine_matrix, embed, load_model

JOB = "DeepNet, 512 x 512"
N = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(resnet50(weights=None).state_dict(), path)
    return path


def torchvision(slices, model):
    transform = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((224, 224), antialias=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    device = next(model.parameters()).device
    with torch.no_grad():
        pictures = (torch.from_numpy(pixels).to(device).expand(3, -1, -1) for pixels in slices)
        outputs = torch.cat([model(transform(picture)[None]) for picture in pictures])
    unit = outputs / outputs.norm(dim=1, keepdim=True)
    return (unit @ unit.T).cpu().numpy()


def test_torchvision(slices, timed, weights):
    model = load_model(weights, "cpu")
    timed(JOB, "slice", "torchvision, CPU", lambda: torchvision(slices[:N], model), N, rounds=3)


def test_cpu(slices, timed, weights):
    model = load_model(weights, "cpu")

    def compute():
        return cosine_matrix(embed(slices[:N], model)).numpy()

    np.testing.assert_allclose(compute(), torchvision(slices[:N], model), rtol=0, atol=1e-5)
    timed(JOB, "slice", "lim_gpu, CPU, 1 thread", compute, N, rounds=3)


@pytest.mark.gpu
def test_gpu(slices, timed, weights):
    model = load_model(weights, "cuda")
    many = torch.from_numpy(np.concatenate([np.roll(slices, shift, axis=2) for shift in range(12)])).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = torchvision(slices[:N], model)
    np.testing.assert_allclose(cosine_matrix(embed(many[:N], model)).cpu().numpy(), expected, rtol=0, atol=1e-5)

    def compute():
        cosine_matrix(embed(many, model))
        torch.cuda.synchronize()

    timed(JOB, "slice", f"lim_gpu, GPU, n = {len(many)}", compute, len(many))
