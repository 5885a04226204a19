"""SwAV: loss and codes against lightly's, the queue, frozen prototypes, numerics."""

from __future__ import annotations

import math

import pytest
import torch

from batches import batch
from two_processes import scores

pytest.importorskip("lightly")

from lightly.loss.swav_loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn

from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.swav import IN_USE, Queue, SwAV, sinkhorn, swapped_prediction

TINY = {
    "backbone": "resnet18",
    "batch_size": 8,
    "swav.large_size": 64,
    "swav.small_size": 32,
    "swav.prototypes": 24,
    "swav.hidden": 32,
    "swav.output": 16,
    "swav.queue": 0,
}


def swav(**overrides) -> SwAV:
    torch.manual_seed(0)
    changes = {f"swav.{name}": value for name, value in overrides.items()}
    return SwAV(resolve("swav", overrides=TINY | changes), slices=96)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.03, 3), (0.5, 10)])
def test_codes_equal_those_of_lightly(epsilon, iterations):
    table = scores(40, 24)
    codes = sinkhorn(table, epsilon, iterations)
    torch.testing.assert_close(codes, lightly_sinkhorn(table, iterations, epsilon), rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(codes.sum(1), torch.ones(40))


def test_many_iterations_share_the_samples_evenly():
    torch.testing.assert_close(sinkhorn(scores(40, 8), 0.5, 50).sum(0), torch.full((8,), 5.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e3, 1e20, 0.0])
def test_codes_are_finite_for_scores_of_any_size(size):
    codes = sinkhorn(scores(16, 24) * size, 0.05, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(16))
    assert not lightly_sinkhorn(scores(16, 24) * 1e3, 3, 0.05).isfinite().all()  # what the logarithms are for


@pytest.mark.parametrize("queued", [0, 32])
def test_loss_equals_that_of_lightly(queued):
    table = scores(6, 8, 24)
    old = scores(2, queued, 24)
    codes = torch.stack([sinkhorn(torch.cat([table[i], old[i]]), 0.05, 3)[:8] for i in range(2)])
    oracle = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    expected = oracle(list(table[:2]), list(table[2:]), list(old) if queued else None)
    torch.testing.assert_close(swapped_prediction(table, codes, 0.1), expected.squeeze(), rtol=1e-5, atol=0)


def test_views_are_crops_of_two_sizes_that_one_pass_each_encodes():
    method = swav()
    passes: list[int] = []
    method.encoder.register_forward_hook(lambda _, args, out: passes.append(len(out)))
    views = method.views(batch(torch.arange(8)), torch.Generator().manual_seed(0))
    assert [tuple(v.shape) for v in views] == [(16, 3, 64, 64), (48, 3, 32, 32)]
    method.loss(views, batch(torch.arange(8)))
    assert passes == [16, 48]
    for overrides, shapes in (({"small_size": 64}, [(64, 3, 64, 64)]), ({"small_crops": 0}, [(16, 3, 64, 64)])):
        views = swav(**overrides).views(batch(torch.arange(8)), torch.Generator().manual_seed(0))
        assert [tuple(v.shape) for v in views] == shapes


def test_crop_after_crop_the_first_two_give_the_codes():
    method = swav().eval()  # each image alone: batch normalisation by running statistics
    slices = batch(torch.arange(8))
    with torch.no_grad():
        views = method.views(slices, torch.Generator().manual_seed(0))
        together_ = method.loss(views, slices)["loss"]
        crops = [crop for v in views for crop in v.split(8)]
        table = torch.stack(
            [
                method.prototypes(torch.nn.functional.normalize(method.head(method.encoder(crop)), dim=1))
                for crop in crops
            ]
        )
    expected = SwaVLoss()(list(table[:2]), list(table[2:])).squeeze()
    torch.testing.assert_close(together_, expected, rtol=1e-4, atol=0)


def test_prototypes_have_unit_length_and_no_bias():
    method = swav()
    method.prototypes.weight.data.mul_(7)
    method.training_step(batch(torch.arange(8)), 0)
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(24))
    assert method.prototypes.bias is None


def test_the_loss_stays_float32_under_autocast():
    method = swav()
    seen: list[torch.dtype] = []
    method.head.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    method.prototypes.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = method.training_step(batch(torch.arange(8)), 0)
    assert seen == [torch.bfloat16, torch.float32]
    assert all(value.dtype == torch.float32 for value in found.values())
    assert found["loss"].isfinite()


def test_frozen_prototypes_take_no_gradient(monkeypatch):
    for overrides, epoch, step, frozen in (
        ({"freeze_epochs": 2}, 1, 900, True),
        ({"freeze_epochs": 2}, 2, 900, False),
        ({"freeze_iterations": 313, "freeze_epochs": 0}, 0, 312, True),
        ({"freeze_iterations": 313, "freeze_epochs": 0}, 0, 313, False),
        ({"freeze_epochs": 0}, 0, 0, False),
    ):
        method = swav(**overrides)
        monkeypatch.setattr(SwAV, "current_epoch", epoch)
        monkeypatch.setattr(SwAV, "global_step", step)
        method.training_step(batch(torch.arange(8)), 0)["loss"].backward()
        assert method.prototypes.weight.grad is not None
        method.on_before_optimizer_step(method.configure_optimizers())
        assert (method.prototypes.weight.grad is None) == frozen


def test_a_queue_keeps_the_newest_and_wraps_around():
    queue = Queue(5, 1)
    for start in (0, 2, 4):
        rows = torch.tensor([[start], [start + 1]]).float()
        assert not queue.full
        queue.push(torch.stack([rows, -rows]))
    assert queue.full
    assert queue.embeddings[:, :, 0].tolist() == [[4, 5, 2, 3, 0], [-4, -5, -2, -3, 0]]
    assert not Queue(0, 1).full
    Queue(0, 1).push(torch.ones(2, 3, 1))  # no queue takes nothing


def test_the_queue_begins_at_its_epoch_and_serves_when_full(monkeypatch):
    method = swav(queue=16, queue_from_epoch=3)
    seen: list[int] = []
    monkeypatch.setattr("lim_gpu.pretrain.swav.sinkhorn", lambda s, *rest: seen.append(len(s)) or sinkhorn(s, *rest))
    for epoch in (2, 3, 3, 3):
        monkeypatch.setattr(SwAV, "current_epoch", epoch)
        method.training_step(batch(torch.arange(8)), 0)
    assert seen == [8, 8] * 3 + [24, 24]


def test_the_queue_can_begin_at_a_step(monkeypatch):
    method, filled = swav(queue=16, queue_from_step=2), []
    for step in (0, 1, 2):
        monkeypatch.setattr(SwAV, "global_step", step)
        method.training_step(batch(torch.arange(8)), 0)
        filled.append(method.queue.filled)
    assert filled == [0, 0, 8]


def test_a_queue_reaches_back_an_epoch_at_most():
    assert swav(queue=3840).queue.embeddings.shape == (2, 96, 16)
    assert swav(queue=3840, queue_share=0).queue.embeddings.shape == (2, 3840, 16)


def test_a_queue_sharpens_the_codes():
    plain, queued = swav(), swav(queue=64, queue_from_epoch=0)
    for step in range(9):
        ids = torch.arange(8) + 8 * step
        alone, helped = (m.training_step(batch(ids), 0)["effective_prototypes"] for m in (plain, queued))
    assert helped < alone


def test_a_saved_method_goes_on_with_the_same_loss(tmp_path):
    method = swav(queue=16, queue_from_epoch=0)
    for first in (0, 8):
        method.training_step(batch(torch.arange(first, first + 8)), 0)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    again = swav(queue=16, queue_from_epoch=0)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.queue.full
    last = batch(torch.arange(16, 24))
    expected, got = (m.training_step(last, 0) for m in (method, again))
    assert {k: v.item() for k, v in expected.items()} == {k: v.item() for k, v in got.items()}


def test_meters():
    method = swav()
    one_hot = torch.eye(24)[None, :8].repeat(2, 1, 1)
    found = method._meters(one_hot, one_hot)  # eight prototypes in use, one a code
    assert found["effective_prototypes"] == 1
    assert found["max_q"] == 1
    assert found["usage_perplexity"].item() == pytest.approx(8)
    assert found["dead_share"].item() == pytest.approx(16 / 24)
    even = torch.full((2, 8, 24), 1 / 24)
    assert method._meters(one_hot, even)["effective_prototypes"].item() == pytest.approx(24)
    for _ in range(math.ceil(math.log(IN_USE / 16) / math.log(0.99))):
        found = method._meters(one_hot[:, :1].expand(2, 8, 24), even)
    assert found["dead_share"].item() == pytest.approx(23 / 24)  # the others have been forgotten
    method._normalise_prototypes()
    w = method.prototypes.weight
    cosines = (w @ w.T)[~torch.eye(24, dtype=torch.bool)]
    assert method._meters(one_hot, even)["prototype_cosine"].item() == pytest.approx(cosines.mean().item(), abs=1e-6)
