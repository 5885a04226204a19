"""The codebook: nearest codes and gradients as others compute them, and that dead codes live again."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lim_gpu.pretrain.codebook import COMMITMENT, Codebook, perplexity

CODES, LENGTH = 24, 6


def latent(seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(3, LENGTH, 5, 4, generator=torch.Generator().manual_seed(seed))


def picks(seed: int = 0) -> torch.Tensor:
    return torch.rand(CODES, generator=torch.Generator().manual_seed(seed))


def spread_codebook(dead_after: int = 0) -> Codebook:
    torch.manual_seed(0)
    book = Codebook(CODES, LENGTH, dead_after)
    torch.nn.init.normal_(book.codes)
    return book


def test_codes_and_gradients_are_those_of_vector_quantize_pytorch():
    oracle_of = pytest.importorskip("vector_quantize_pytorch").VectorQuantize
    book, z, direction = spread_codebook(), latent().requires_grad_(), latent(seed=1)
    oracle = oracle_of(LENGTH, CODES, accept_image_fmap=True, rotation_trick=False, commitment_weight=0.0).eval()
    oracle.codebook = book.codes.detach()
    expected, indices, _ = oracle(z.detach())
    found = book(z, picks())
    torch.testing.assert_close(found.codes, expected, rtol=0, atol=5e-7)  # x + (code - x) rounds
    assert torch.equal(found.counts, indices.flatten().bincount(minlength=CODES))
    (gradient,) = torch.autograd.grad((found.codes * direction).sum(), z)
    assert torch.equal(gradient, direction)  # straight through


def test_the_commitment_is_monais():
    monai = pytest.importorskip("monai.networks.layers.vector_quantizer")
    book, z = spread_codebook(), latent().requires_grad_()
    oracle = monai.EMAQuantizer(2, CODES, LENGTH, commitment_cost=COMMITMENT).eval()
    oracle.embedding.weight.data.copy_(book.codes.detach())
    _, expected, _ = oracle(z)
    (ours,) = torch.autograd.grad(book(z, picks()).loss, z)
    (theirs,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(ours, theirs)


def test_the_loss_is_the_distance_once_for_the_codes_and_a_quarter_for_the_encoder():
    book, z = spread_codebook(), latent().requires_grad_()
    found = book(z, picks())
    distance = functional.mse_loss(found.codes, z)
    assert found.loss.item() == pytest.approx(1.25 * distance.item(), rel=1e-5)
    of_codes, of_z = torch.autograd.grad(found.loss, (book.codes, z))
    error = (z - found.codes).detach() / z.numel()
    torch.testing.assert_close(of_z, 2 * COMMITMENT * error, rtol=1e-4, atol=1e-9)
    assert of_codes.sum().item() == pytest.approx(-2 * error.sum().item(), abs=1e-5)


def test_codes_begin_as_encoder_outputs_and_as_published_near_nothing():
    z = latent(scale=5.0)
    book = Codebook(CODES, LENGTH, dead_after=3)
    found = book(z, picks())
    rows = z.movedim(1, -1).flatten(0, 2)
    assert torch.equal(book.codes, rows[(picks() * len(rows)).long()])
    published = Codebook(CODES, LENGTH, dead_after=0)
    assert published.codes.abs().max() <= 1 / CODES
    assert published(z, picks()).loss > 2 * found.loss
    assert published.codes.abs().max() <= 1 / CODES


def test_a_code_that_nothing_uses_begins_anew_and_others_stay():
    book, z = spread_codebook(dead_after=2), latent()
    book.idle.zero_()
    with torch.no_grad():
        book.codes[5] = 100.0  # far from everything
    before = book.codes.detach().clone()
    for step in range(2):
        book(z, picks(step))
        assert book.codes[5, 0] == 100
    assert book.idle[5] == 2
    used = book(z, picks(7)).counts > 0
    assert (book.codes[5] != 100).all()
    assert (book.idle[used] == 0).all()
    always = book.idle.new_tensor([torch.equal(a, b) for a, b in zip(before, book.codes, strict=True)]).bool()
    assert always.any()
    assert not always[5]


def test_nothing_changes_where_nothing_is_learnt():
    book = spread_codebook(dead_after=1).eval()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book(latent(), picks())
    assert all(torch.equal(before[name], value) for name, value in book.state_dict().items())


@pytest.mark.parametrize(("counts", "expected"), [([5, 0, 0], 1.0), ([4, 4, 4], 3.0), ([1, 1, 0], 2.0)])
def test_perplexity_counts_codes(counts, expected):
    assert perplexity(torch.tensor(counts)).item() == pytest.approx(expected)
