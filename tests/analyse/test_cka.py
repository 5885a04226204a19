"""Linear CKA: the estimator against its plain form, its laws, and networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lim_gpu.analyse.cka import Cka, grams, hsic, layer_names
from lim_gpu.errors import UsageError
from lim_gpu.weights.backbone import network, resnet


def gram(values: torch.Tensor) -> torch.Tensor:
    return (values @ values.T).fill_diagonal_(0)[None]


def cka(x: torch.Tensor, y: torch.Tensor, batches: int = 1) -> float:
    collected = Cka()
    for a, b in zip(x.chunk(batches), y.chunk(batches), strict=True):
        collected.add(gram(a), gram(b))
    return float(collected.value()[0, 0])


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    mixed = torch.randn(12, 7, generator=generator, dtype=torch.float64)
    return x, x @ mixed + 0.5 * torch.randn(40, 7, generator=generator, dtype=torch.float64)


def test_the_estimator_is_the_sum_over_different_indices(features):
    x, y = (part[:7] for part in features)
    k, m = gram(x)[0].numpy(), gram(y)[0].numpy()
    n = len(k)
    pairs = sum(k[i, j] * m[i, j] for i in range(n) for j in range(n) if i != j)
    fours, threes = 0.0, 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                if len({i, j, q}) == 3:
                    threes += k[i, j] * m[i, q]
                    fours += sum(k[i, j] * m[q, r] for r in range(n) if len({i, j, q, r}) == 4)
    plain = pairs / (n * (n - 1)) + fours / (n * (n - 1) * (n - 2) * (n - 3)) - 2 * threes / (n * (n - 1) * (n - 2))
    assert float(hsic(gram(x), gram(y))[0, 0]) == pytest.approx(plain, rel=1e-10)


def test_laws(features):
    x, y = features
    turned = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)
    assert cka(3 * x @ turned, y) == pytest.approx(cka(x, y), abs=1e-10)
    assert cka(x + 3, y - 5) == pytest.approx(cka(x, y), abs=1e-9)
    assert 0.3 < cka(x, y) < 1


def test_unrelated_features_give_nothing_on_average_whatever_the_batch():
    generator = torch.Generator().manual_seed(1)
    values = [
        cka(*(torch.randn(48, 300, generator=generator, dtype=torch.float64) for _ in range(2)), batches=batches)
        for batches in (1, 4)
    ]
    assert np.abs(values).max() < 0.1  # the biased estimator gives about 0.9 here


def test_batches_agree_with_the_whole():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(400, 20, generator=generator, dtype=torch.float64)
    y = x[:, :10] + torch.randn(400, 10, generator=generator, dtype=torch.float64)
    assert cka(x, y, batches=10) == pytest.approx(cka(x, y), abs=0.03)


def test_layers_of_a_network():
    torch.manual_seed(0)
    encoder = resnet("resnet18", 1).eval()
    names = layer_names("resnet18", encoder, "blocks")
    assert names[0] == "maxpool"
    assert len(names) == 10
    assert len(layer_names("resnet18", encoder, "convolutions")) == 20
    with pytest.raises(UsageError, match="blocks or convolutions"):
        layer_names("resnet18", encoder, "all")
    images = torch.randn(6, 1, 64, 64)
    found = grams(encoder, images, names)
    pooled = encoder(images).detach()
    pooled = pooled - pooled.mean(0)
    assert torch.allclose(found[-1], (pooled @ pooled.T).double().fill_diagonal_(0), rtol=1e-3, atol=1e-4)
    collected = Cka()
    collected.add(found, found)
    value = collected.value()
    assert np.allclose(np.diag(value), 1)
    assert np.allclose(value, value.T)
    assert not encoder.maxpool._forward_hooks


def test_layers_of_an_autoencoder_and_of_timm():
    encoder = network("vqae-small", 1).eval()
    names = layer_names("vqae-small", encoder, "blocks")
    assert names == ["e1", "e2", "e3", "residual.0", "residual.1", "residual.2"]
    images = torch.randn(6, 1, 32, 32)
    found = encoder.e1(images).detach().flatten(1)
    found = found - found.mean(0)
    torch.testing.assert_close(
        grams(encoder, images, names)[0], (found @ found.T).double().fill_diagonal_(0), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(UsageError, match=r"not of timm:test_resnet. Give `analyse probe` or `analyse tsne`"):
        layer_names("timm:test_resnet", network("timm:test_resnet"), "convolutions")


def test_too_few_images():
    with pytest.raises(UsageError, match="at least 4"):
        hsic(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3))
    with pytest.raises(UsageError, match="batch"):
        Cka().value()
